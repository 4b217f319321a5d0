"""The chunked route of cache_retrieval on the CPU: its kernels, and the walk over chunks, with products by a loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from . import test_cache_retrieval as fused
from .harness import toolchain
from .harness.build import HERE, Target
from .harness.case import Case, Kernel, Problem, kernel_cases, worker
from .harness.numbers import DTYPE_CODE
from .harness.process import Schedule

# The products are those of the driver: float stands for tf32 too.
DTYPES = ["f32", "bf16", "f16", "f64"]
DRIVER = "cache_retrieval_chunked.cu"
SMALL = (4 * 128 * 5, 5)  # bytes and queries at once: 128 keys of float


def limited(problem: Problem, shape: Mapping[str, Any]) -> Problem:
    return replace(problem, sizes=[*problem.sizes, *shape["limits"]])


def forward_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    return limited(fused.forward_problem(shape, dtype, rng), shape)


def backward_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    return limited(fused.backward_problem(shape, dtype, rng), shape)


def forward_shape(*sizes: int, how: str = "plain", limits: tuple[int, int] = (1 << 24, 1024)) -> dict[str, Any]:
    return {**fused.forward_shape(*sizes, how=how), "limits": limits}


def backward_shape(*sizes: int, how: str = "plain", limits: tuple[int, int] = (1 << 24, 1024)) -> dict[str, Any]:
    return {**fused.backward_shape(*sizes, how=how), "limits": limits}


FORWARD = Kernel(
    name="cache_chunked_forward",
    driver=DRIVER,
    function="chunked_forward",
    source="csrc/cache_retrieval_chunked/sums.cuh:class_sums_kernel",
    shapes=[
        forward_shape(1, 1, 1, 1),
        forward_shape(0, 4, 2, 8),
        forward_shape(5, 0, 3, 8),
        forward_shape(3, 4, 2, 0),
        forward_shape(32, 64, 8, 5),  # full tiles
        forward_shape(33, 70, 41, 6),  # more queries than a warp; many classes of one or no entry
        forward_shape(5, 300, 90, 6, how="own", limits=SMALL),  # three chunks, which most classes lie across
        forward_shape(5, 300, 2, 6, limits=SMALL),  # classes that eight warps share
        forward_shape(12, 300, 9, 6, limits=SMALL),  # three parts of the queries, the last smaller
        forward_shape(5, 300, 4, 6, 3, how="mask", limits=SMALL),  # two streams: half as many keys
        forward_shape(12, 140, 20, 6, 3, how="own", limits=(1, 5)),
        forward_shape(7, 300, 20, 6, 3, how="class mask", limits=SMALL),
        forward_shape(40, 300, 3, 6, 3, how="class own", limits=SMALL),
        forward_shape(1, 1, 1, 4, 4, how="own"),  # nothing left once the own entry is out
        forward_shape(5, 66, 3, 24, how="number"),
        forward_shape(5, 66, 3, 24, 8, how="number silent"),  # no disagreement
        forward_shape(5, 10, 3, 8, 8, how="single own"),
    ],
    dtypes=DTYPES,
    problem=forward_problem,
)

BACKWARD = Kernel(
    name="cache_chunked_backward",
    driver=DRIVER,
    function="chunked_backward",
    source="csrc/cache_retrieval_chunked/gradients.cuh:weights_kernel",
    shapes=[
        backward_shape(1, 1, 1, 1),
        backward_shape(3, 5, 2, 7, how="own weight"),
        backward_shape(0, 4, 2, 8),
        backward_shape(5, 0, 3, 8),
        backward_shape(3, 4, 2, 0),
        backward_shape(32, 128, 32, 5, how="weight"),  # full tiles
        backward_shape(35, 140, 41, 6, how="count own weight"),
        backward_shape(5, 300, 9, 6, how="count own", limits=SMALL),  # three chunks
        backward_shape(12, 300, 9, 6, how="own weight", limits=SMALL),  # and three parts of the queries
        backward_shape(12, 20, 9, 6, limits=SMALL),  # parts of the queries alone
        backward_shape(6, 140, 4, 5, how="queries only", limits=SMALL),
        backward_shape(6, 140, 4, 5, how="keys only", limits=SMALL),
        backward_shape(6, 140, 4, 5, how="rows only own"),
        backward_shape(6, 140, 4, 5, how="matrices only"),
        backward_shape(6, 10, 4, 5, how="number weight"),
        backward_shape(6, 10, 4, 5, how="single weight"),
    ],
    dtypes=["f32", "bf16", "f64"],
    problem=backward_problem,
)


@kernel_cases(FORWARD)
def test_forward(case: Case) -> None:
    case.check()


@kernel_cases(BACKWARD)
def test_backward(case: Case) -> None:
    case.check()
