"""The harness on two kernels of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .harness.case import Case, Kernel, Problem, kernel_cases
from .harness.numbers import poison


def matmul_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    m, n, k = shape["m"], shape["n"], shape["k"]
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    return Problem([m, n, k], {"a": a, "b": b, "c": poison((m, n), np.float32)}, {"c": expected}, 1e-5, {"c": 1e-5})


def softmax_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    x = 3 * rng.standard_normal((shape["rows"], shape["cols"]), np.float32)
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    buffers = {"x": x, "y": poison(x.shape, np.float32)}
    return Problem(x.shape, buffers, {"y": e / e.sum(-1, keepdims=True)}, 1e-5)


MATMUL = Kernel(
    name="matmul",
    driver="demo.cu",
    function="demo_matmul",
    source="tests/cuda_on_cpu/kernels/demo.cuh:matmul_kernel",
    shapes=[{"m": m, "n": n, "k": k} for m, n, k in [(1, 1, 1), (16, 16, 16), (17, 35, 23), (5, 7, 0), (0, 3, 4)]],
    dtypes=["f32"],
    problem=matmul_problem,
)
SOFTMAX = Kernel(
    name="softmax",
    driver="demo.cu",
    function="demo_softmax",
    source="tests/cuda_on_cpu/kernels/demo.cuh:softmax_kernel",
    shapes=[{"rows": 1, "cols": 1}, {"rows": 5, "cols": 31}, {"rows": 9, "cols": 100}],
    dtypes=["f32"],
    problem=softmax_problem,
)


@kernel_cases(MATMUL)
def test_matmul(case: Case) -> None:
    case.check()


@kernel_cases(SOFTMAX)
def test_softmax(case: Case) -> None:
    case.check()
