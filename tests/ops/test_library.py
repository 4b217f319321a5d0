"""The compiled library: which instruction-set level runs, and what it says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlmadapt.errors import MissingDependency
from vlmadapt.ops import build_info, library
from vlmadapt.ops.checks import constant_when_compiled

# A process a level, for the library looks once; torch, which takes seconds, is imported before they part.
PRINT_LEVELS = """
import os, sys, torch, torch._dynamo
for level in sys.argv[1:]:
    if os.fork() == 0:
        os.environ["VLMADAPT_ISA"] = level
        from vlmadapt.ops import build_info
        print(build_info()["isa"], flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_lower_level_can_be_forced_and_an_unknown_one_is_refused() -> None:
    levels = build_info()["isa_available"]
    command = [sys.executable, "-c", PRINT_LEVELS, *levels, "sse9"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.split() == levels
    assert "VLMADAPT_ISA is 'sse9': choose one of" in result.stderr


def test_build_info_names_the_library() -> None:
    info = build_info()
    assert info["cpu_library"].startswith("_cpu") and info["error"] is None
    assert info["isa"] in info["isa_available"]


def test_the_stable_abi_is_the_one_that_was_built_for() -> None:
    setup = (Path(__file__).resolve().parents[2] / "setup.py").read_text(encoding="utf-8")
    digits = re.search(r'^STABLE_ABI = "0x(\w\w)(\w\w)0+ULL"', setup, re.MULTILINE)
    assert digits is not None
    assert build_info()["stable_abi_target"] == f"{int(digits[1], 16)}.{int(digits[2], 16)}"


def test_a_library_that_does_not_load_still_names_its_stable_abi(monkeypatch: pytest.MonkeyPatch) -> None:
    target = build_info()["stable_abi_target"]
    monkeypatch.setattr(library, "_loaded", {})
    assert target is not None and build_info()["stable_abi_target"] == target


STALE = """
import sys, torch
load = torch.ops.load_library
torch.ops.load_library = lambda path: load(sys.argv[1])
from vlmadapt import doctor, ops
from vlmadapt.errors import MissingDependency
targets = torch.eye(3)
try:
    ops.signed_cosine_top_k(targets, targets, 1)
except MissingDependency as error:
    print(error)
with ops.use_reference():
    ops.signed_cosine_top_k(targets, targets, 1)
print(ops.build_info()["cpu_library"], ops.build_info()["error"])
print(*(finding.text for finding in doctor.operator_findings(ops.build_info()) if finding.state == "broken"))
"""


@pytest.mark.parametrize(
    ("today", "once"),
    [
        (b"signed_cosine_top_k(Tensor", b"signed_cosine_top_x(Tensor"),
        (b"int first_row, bool skip_diagonal)", b"int first_row                    )"),
    ],
    ids=["an operator is missing", "an argument is missing"],
)
def test_a_library_of_older_sources_is_one_sentence_at_the_first_use(tmp_path: Path, today: bytes, once: bytes) -> None:
    path = library._loaded["_cpu"]
    compiled = path.read_bytes()
    assert len(today) == len(once) and compiled.count(today) == 1
    stale = tmp_path / path.name
    stale.write_bytes(compiled.replace(today, once))
    result = subprocess.run([sys.executable, "-c", STALE, str(stale)], capture_output=True, text=True)
    refused, info, broken = result.stdout.splitlines() or [result.stderr] * 3
    why = f"the compiled library {path.name} was built from other sources, for it has no operator signed_cosine_top_k"
    assert refused.startswith(why) and "rebuild the package from its source folder with `pip install" in refused
    assert info.startswith(f"None {why}") and f"CPU library: none ({why}" in broken


def test_a_missing_library_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_loaded", {})
    with pytest.raises(MissingDependency, match=r"rebuild the package .* with `pip install"):
        library.require(torch.device("cpu"))


def test_other_devices_are_refused() -> None:
    with pytest.raises(MissingDependency, match="no kernels for meta tensors"):
        library.require(torch.device("meta"))


def test_constants_are_marked_as_torch_marks_them() -> None:
    ours, theirs = constant_when_compiled(lambda: 0), torch.compiler.assume_constant_result(lambda: 0)
    assert vars(ours) == vars(theirs)


@pytest.mark.parametrize("room", ["ops", "adapters"])
def test_it_is_imported_without_the_compiler(room: str) -> None:
    """Which takes as long to import as torch does."""
    if room == "adapters":  # these tests run where there is torch and little else, too
        pytest.importorskip("PIL", reason="Pillow is not installed")
    code = f"import sys, vlmadapt.{room}; print('torch._dynamo' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]
