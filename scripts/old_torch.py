"""Do the bindings compile against an older torch's headers, and does it export the symbols the libraries need?

    python scripts/old_torch.py 2.11.0 [--write]

Fetches that wheel with pip into build/old_torch and installs nothing; ``--write`` makes the committed list of its
symbols anew (tests/kernels/torch_2_11_symbols.txt).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYMBOLS = ROOT / "tests" / "kernels" / "torch_2_11_symbols.txt"
LIBRARIES = ("torch/lib/libtorch_cpu.so", "torch/lib/libtorch_cuda.so")
# The stable ABI consists of C functions of these names.
STABLE = re.compile(r"\b(?:aoti_torch|torch)_\w+$")


def wheel_of(version: str, folder: Path) -> Path:
    """The wheel of ``version``, fetched once."""
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob(f"torch-{version}-*.whl")):
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*fetch, f"torch=={version}"], check=True)
    return next(folder.glob(f"torch-{version}-*.whl"))


def unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        wanted = [name for name in archive.namelist() if name.startswith("torch/include/") or name in LIBRARIES]
        archive.extractall(target, wanted)


def exported(target: Path) -> list[str]:
    """Names of the stable ABI's functions in the libraries of ``target``."""
    found: set[str] = set()
    for library in LIBRARIES:
        if (target / library).is_file():
            printed = subprocess.run(
                ["nm", "--dynamic", "--defined-only", str(target / library)], capture_output=True, text=True, check=True
            ).stdout
            found |= {match[0] for line in printed.splitlines() if (match := STABLE.search(line))}
    return sorted(found)


def compile_bindings(target: Path) -> int:
    """How many bindings were parsed; stops at the first error."""
    sources = json.loads((ROOT / "csrc" / "sources.json").read_text(encoding="utf-8"))
    include = target / "torch" / "include"
    base = [os.environ.get("CXX", "g++"), "-fsyntax-only", "-std=c++17", "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"]
    base += ["-DVLMADAPT_NUM_NEWER_LEVELS=0"]
    base += [f"-I{ROOT / 'csrc'}", f"-isystem{include}", f"-isystem{include / 'torch/csrc/api/include'}"]
    jobs: list[tuple[str, list[str]]] = [(source, []) for source in sources["binding"]]
    toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    if (Path(toolkit) / "include" / "cuda_runtime.h").is_file():
        cuda = ["-DUSE_CUDA", '-DVLMADAPT_CUDA_ARCHS="9.0"', f"-isystem{toolkit}/include"]
        jobs += [(source, cuda) for source in sources["cuda_binding"]]
    else:
        print(f"no CUDA headers under {toolkit} (CUDA_HOME): the CUDA bindings are left out")
    for source, more in jobs:
        subprocess.run([*base, *more, str(ROOT / source)], check=True)
    return len(jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    folder = ROOT / "build" / "old_torch"
    target = folder / given.version
    unpack(wheel_of(given.version, folder), target)
    names = exported(target)
    if given.write:
        SYMBOLS.write_text("\n".join(names) + "\n", encoding="ascii")
    else:
        absent = sorted(set(SYMBOLS.read_text(encoding="ascii").split()) - set(names))
        print(f"torch {given.version}: {len(names)} stable functions, {len(absent)} of the list are absent: {absent}")
    print(f"torch {given.version}: {compile_bindings(target)} bindings compile")


if __name__ == "__main__":
    main()
