"""Tests below torch; CMake builds the modules from ``tests/kernels/module*.cpp``: ``raw_kernels`` as the package has
them, ``emulated_kernels`` the levels of bfloat16 on any processor."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

# `make sanitize` names another build.
BUILD = Path(os.environ.get("VLMADAPT_KERNELS", Path(__file__).resolve().parents[2] / "build" / "cmake"))


def _load(name: str) -> ModuleType:
    pattern = f"{name}.{sys.implementation.cache_tag}*.so"
    built = next(iter(sorted(BUILD.glob(pattern))), None)
    if built is None:
        pytest.skip("the NumPy test module is not built: run `make kernels-module`", allow_module_level=True)
    spec = importlib.util.spec_from_file_location(name, built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


raw_kernels = _load("raw_kernels")
emulated_kernels = _load("emulated_kernels")
