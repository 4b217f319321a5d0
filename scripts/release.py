"""A release as its users will get it: ``make wheel``.

    python -m scripts.release check [--tag v0.1.0]     version, changelog and tag agree
    python -m scripts.release try dist                 contents; installed where nothing else is, the demo runs

``check`` with a tag also asks that the changelog names a day. ``try`` makes an environment under build/, installs the
wheel with what its extra ``embedded`` asks for, at the versions of constraints.txt, and starts from an empty folder.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"^## (\S+) \((unreleased|\d{4}-\d{2}-\d{2})\)$", re.M)
IN_WHEEL = ("vlmadapt/_cpu.abi3.so", "vlmadapt/py.typed", "vlmadapt/backbones/embedded_heads.safetensors")
IN_SOURCE = ("csrc/sources.json", "build_support.py", "setup.py", "vlmadapt/py.typed", "LICENSE", "CHANGELOG.md")


class NotReady(Exception):
    """What stands between the tree and a release, in one sentence."""


def check(version: str, changelog: str, tag: str | None) -> None:
    """Raises :class:`NotReady` where the changelog's first heading or the tag is of another version."""
    heading = HEADING.search(changelog)
    if heading is None:
        raise NotReady("CHANGELOG.md has no heading such as '## 0.1.0 (2026-01-31)': add one.")
    if heading[1] != version:
        raise NotReady(f"CHANGELOG.md begins with {heading[1]}, vlmadapt/version.py says {version}: they must agree.")
    if tag is None:
        return
    if tag != f"v{version}":
        raise NotReady(f"the tag is {tag!r}, the version {version}: tag v{version}.")
    if heading[2] == "unreleased":
        raise NotReady(f"CHANGELOG.md says that {version} is unreleased: write the day.")


def contents(folder: Path) -> Path:
    """The wheel in ``folder``; raises :class:`NotReady` where it, or the source beside it, lacks what it needs."""
    wheels, sources = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        raise NotReady(f"{folder} holds {len(wheels)} wheels and {len(sources)} sources: one of each was meant.")
    if "-cp311-abi3-" not in wheels[0].name:
        raise NotReady(f"{wheels[0].name} is no wheel for every Python from 3.11 on: its name lacks cp311-abi3.")
    with zipfile.ZipFile(wheels[0]) as wheel:
        packed = set(wheel.namelist())
    with tarfile.open(sources[0]) as source:
        given = {name.partition("/")[2] for name in source.getnames()}
    for needed, has, where in ((IN_WHEEL, packed, wheels[0].name), (IN_SOURCE, given, sources[0].name)):
        if missing := [name for name in needed if name not in has]:
            raise NotReady(f"{where} lacks {', '.join(missing)}: see MANIFEST.in and package-data in pyproject.toml.")
    strays = [name for name in packed if not re.match(r"vlmadapt(/|-[\d.]+(\w*)\.dist-info/)", name)]
    if strays:
        raise NotReady(f"{wheels[0].name} would lay {strays[0]} beside the package: see packages.find.")
    return wheels[0]


def try_out(wheel: Path, environment: Path) -> None:
    """Installs the wheel in a new environment and runs the demo there, from an empty folder."""
    venv.create(environment, with_pip=True, clear=True)
    python = environment / "bin" / "python"
    what = ["-c", str(ROOT / "constraints.txt"), f"{wheel.resolve()}[embedded]"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)
    with tempfile.TemporaryDirectory() as folder:
        for command in (["doctor"], ["demo"]):
            subprocess.run([environment / "bin" / "vlmadapt", *command], check=True, cwd=folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("--tag")
    commands.add_parser("try").add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        if options.command == "check":
            from vlmadapt.version import __version__

            check(__version__, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), options.tag)
        else:
            try_out(contents(options.folder), ROOT / "build" / "release")
    except NotReady as problem:
        print(f"not ready: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
