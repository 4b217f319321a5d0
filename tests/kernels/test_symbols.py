"""Code compiled for a newer instruction set must not be shared with the rest of the library.

A linker keeps one copy of every inline function: if a file compiled for AVX-512 emitted, say, a standard-library
template, an older processor could be handed that copy. Every such symbol must live in a namespace of its level.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernels import BUILD
from vlmadapt.ops.library import PACKAGE

LEVELS = json.loads((PACKAGE.parent / "csrc" / "sources.json").read_text(encoding="utf-8"))["levels"]
FOLDER = BUILD / "CMakeFiles"
OBJECTS = [
    (level, path)
    for level in LEVELS
    for pattern in (f"kernels_{level}.dir/csrc/*/cpu_*level.cpp.o", f"unit_simd_{level}.dir/**/unit_simd_level.cpp.o")
    for path in sorted(FOLDER.glob(pattern))
]


@pytest.mark.skipif(not OBJECTS, reason="no object files for newer instruction sets on this architecture")
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_shared_symbols_stay_in_the_namespace_of_their_level() -> None:
    for level, path in OBJECTS:
        listing = subprocess.run(["nm", "--defined-only", str(path)], capture_output=True, text=True, check=True).stdout
        shared = [line.split()[-1] for line in listing.splitlines() if line.split()[-2] in "WVu"]
        assert any(f"vlmadapt{len(level)}{level}" in name for name in shared), "no kernel symbols found in the object"
        strays = [name for name in shared if f"{len(level)}{level}" not in name and not name.startswith("DW.ref.")]
        assert not strays, f"{path.relative_to(FOLDER)} shares {strays}"


@pytest.mark.parametrize("library", ["_cpu", "_cuda"])
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_libraries_need_nothing_that_an_older_torch_lacks(library: str) -> None:
    """``scripts/old_torch.py`` makes the list: every function of the stable ABI that torch 2.11 exports."""
    path = next(iter(PACKAGE.glob(f"{library}*.so")), None)
    if path is None:
        pytest.skip(f"the library {library} was not built")
    known = set((Path(__file__).parent / "torch_2_11_symbols.txt").read_text(encoding="ascii").split())
    listing = subprocess.run(["nm", "-D", "--undefined-only", str(path)], capture_output=True, text=True, check=True)
    needed = {line.split()[-1] for line in listing.stdout.splitlines()}
    torchs = {name for name in needed if re.match(r"(aoti_)?torch_", name)}
    assert "torch_call_dispatcher" in torchs
    assert torchs <= known, f"torch 2.11 has no {sorted(torchs - known)}"
    # A C++ name of torch would bind the library to one version.
    assert not {name for name in needed if re.search(r"_ZN\w*(2at|3c10|5torch)", name)}
