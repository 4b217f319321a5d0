"""A few operator tests at every instruction-set level, under PyTorch's and oneDNN's lowest, and with one thread.

The whole suite runs at the best level of the processor it meets. By hand, with the same variables:

    VLMADAPT_ISA=baseline .venv/bin/python -m pytest tests/ops tests/kernels
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmadapt.ops import build_info

ACCURACY = "test_error_is_at_most_twice_that_of_eager"
CHOSEN = [
    f"tests/ops/test_cache_retrieval.py::{ACCURACY}[(4, 200, 10, 96)-torch.float32]",
    f"tests/ops/test_cache_retrieval.py::{ACCURACY}[(70, 1100, 13, 100)-torch.bfloat16]",
    "tests/ops/test_float32_products.py",
    f"tests/ops/test_cache_retrieval_dense.py::{ACCURACY}[(70, 1100, 13, 100)-torch.float32]",
    "tests/ops/test_cache_retrieval_standardized.py::test_scores_and_gradients_are_those_of_the_reference_in_float64"
    "[four equal-a class-torch.float32]",
    "tests/ops/test_cache_retrieval_standardized.py::test_scores_and_gradients_are_those_of_the_reference_in_float64"
    "[close-an entry-torch.float32]",
    f"tests/ops/test_hetero_aggregate.py::{ACCURACY}[(40, [30, 30], [400, 500], 130)-torch.float32]",
    f"tests/ops/test_p_laplacian.py::{ACCURACY}[1.25-torch.float32]",
    f"tests/ops/test_p_laplacian_probabilities.py::{ACCURACY}[1.5-torch.float32]",
    f"tests/ops/test_p_laplacian_degree.py::{ACCURACY}[scores-1.25-torch.float32]",
    f"tests/ops/test_signed_cosine.py::{ACCURACY}[torch.float32]",
    "tests/ops/test_battery.py::test_results_are_the_same_at_every_thread_count[p_laplacian_attention]",
]
LOWEST = {"ATEN_CPU_CAPABILITY": "default", "VLMADAPT_ISA": "baseline", "ONEDNN_MAX_CPU_ISA": "SSE41"}
SETTINGS = [
    {"VLMADAPT_ISA": "baseline"},
    {"ATEN_CPU_CAPABILITY": "avx2", "VLMADAPT_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    LOWEST | {"OMP_NUM_THREADS": "1"},
    {"VLMADAPT_ISA": "avx512"},
    {"VLMADAPT_ISA": "avx512_bf16"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: " ".join(f"{name}={value}" for name, value in s.items()))
def test_operators_under(settings: dict[str, str]) -> None:
    if settings["VLMADAPT_ISA"] not in build_info()["isa_available"]:
        pytest.skip(f"this processor or build lacks {settings['VLMADAPT_ISA']}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *CHOSEN]
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, cwd=root)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
