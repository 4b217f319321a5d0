"""The compiled library: which instruction-set level runs, and what it says of itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlmadapt.errors import MissingDependency
from vlmadapt.ops import build_info, library

PRINT_LEVEL = "from vlmadapt.ops import build_info; print(build_info()['isa'])"


def run_with_level(level: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"VLMADAPT_ISA": level}
    return subprocess.run([sys.executable, "-c", PRINT_LEVEL], capture_output=True, text=True, env=environment)


def test_a_lower_level_can_be_forced() -> None:
    for level in build_info()["isa_available"]:
        assert run_with_level(level).stdout.strip() == level


def test_an_unknown_level_is_refused() -> None:
    result = run_with_level("sse9")
    assert result.returncode != 0 and "VLMADAPT_ISA is 'sse9': choose one of" in result.stderr


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


def test_a_missing_library_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_loaded", {})
    with pytest.raises(MissingDependency, match=r"rebuild the package .* with `pip install"):
        library.require(torch.device("cpu"))


def test_other_devices_are_refused() -> None:
    with pytest.raises(MissingDependency, match="no kernels for meta tensors"):
        library.require(torch.device("meta"))
