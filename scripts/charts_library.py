"""The charts' library in the package: compared with what npm gives, or replaced by another version of it.

python scripts/charts_library.py [VERSION]
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "vlmadapt" / "reporting" / "report" / "assets"
PACKAGE, FILE, LICENCE = "plotly.js-cartesian-dist-min", "plotly-cartesian.min.js", "plotly-LICENSE.txt"


def noted() -> tuple[str, str]:
    """Version and sha256 as the notice has them."""
    notice = (ASSETS / "NOTICE.md").read_text(encoding="utf-8")
    found = re.search(r"version +(\S+)\n +sha256 +([0-9a-f]{64})", notice)
    if found is None:
        sys.exit("NOTICE.md names no version and sha256.")
    return found[1], found[2]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", nargs="?", help="replace the file by this version")
    asked = parser.parse_args().version
    version, digest = noted()
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", "--silent", f"{PACKAGE}@{asked or version}"], cwd=place, check=True)
        with tarfile.open(next(Path(place).glob("*.tgz"))) as archive:
            archive.extractall(place, filter="data")
        fetched = Path(place) / "package"
        found = sha256((fetched / FILE).read_bytes())
        if asked is None:
            same = found == digest == sha256((ASSETS / FILE).read_bytes())
            sys.exit(None if same else f"{FILE} is not that of {PACKAGE} {version}.")
        shutil.copyfile(fetched / FILE, ASSETS / FILE)
        shutil.copyfile(fetched / "LICENSE", ASSETS / LICENCE)
    notice = (ASSETS / "NOTICE.md").read_text(encoding="utf-8")
    (ASSETS / "NOTICE.md").write_text(notice.replace(version, asked).replace(digest, found), encoding="utf-8")


if __name__ == "__main__":
    main()
