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
LARGE, SMALL = (1 << 24, 1024, 2048), (4 * 128 * 5, 5, 2)  # bytes, queries at once, blocks: of float 128 keys


def limited(problem: Problem, shape: Mapping[str, Any]) -> Problem:
    return replace(problem, sizes=[*problem.sizes, *shape["limits"]])  # the backward counts no blocks


def forward_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    return limited(fused.forward_problem(shape, dtype, rng), shape)


def backward_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    return limited(fused.backward_problem(shape, dtype, rng), shape)


Limits = tuple[int, int, int]


def forward_shape(
    b: int, n: int, c: int, d: int, h: int = 0, how: str = "plain", limits: Limits = LARGE
) -> dict[str, Any]:
    return {**fused.forward_shape(b, n, c, d, h, how), "limits": limits}


def backward_shape(b: int, n: int, c: int, d: int, how: str = "plain", limits: Limits = LARGE) -> dict[str, Any]:
    return {**fused.backward_shape(b, n, c, d, how), "limits": limits}


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
        forward_shape(40, 140, 2, 6),  # and more queries than a warp has
        forward_shape(12, 300, 9, 6, limits=SMALL),  # three parts of the queries, the last smaller
        forward_shape(5, 300, 4, 6, 3, how="mask", limits=SMALL),  # two streams: half as many keys
        forward_shape(12, 140, 20, 6, 3, how="own", limits=(1, 5, 3)),
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


def answer(function: str, *sizes: int) -> list[int]:
    target = Target(HERE / "drivers" / DRIVER)
    if reason := toolchain.missing(target.route, target.build):
        pytest.skip(reason)
    out = worker(target).call(function, sizes, {"out": np.zeros(2, np.int64)}, Schedule())["out"]
    return [int(value) for value in out]


@pytest.mark.parametrize(
    ("queries", "keys", "pair_bytes", "query_bytes", "expected"),
    [
        (1000, 16000, 4, 0, [1000, 4096]),  # four chunks
        (4096, 64000, 4, 0, [1024, 4096]),
        (1000, 16000, 8, 4000, [1000, 2048]),  # two streams, or weights beside products
        (1000, 16000, 4, 84000, [192, 16000]),  # 21,000 classes: few queries at a time
        (1, 10**6, 4, 0, [1, 10**6]),
        (1, 10**7, 4, 0, [1, 3333376]),  # even chunks, of whole blocks
        (64, 100, 4, 0, [64, 100]),
        (0, 0, 4, 0, [1, 0]),
        (100, 10, 4, 10**9, [32, 10]),  # no less than a warp of queries
    ],
)
def test_sizes_of_chunks(queries: int, keys: int, pair_bytes: int, query_bytes: int, expected: list[int]) -> None:
    assert answer("chunked_sizes", queries, keys, pair_bytes, query_bytes) == expected


AUTO, FUSED, CHUNKED = range(3)


def routes(dtype: str, route: int, queries: int, keys: int, width: int) -> list[int]:
    """Whether forward and backward are chunked."""
    stored = "f32" if dtype == "tf32" else dtype
    return answer("chunked_route", DTYPE_CODE[stored], int(dtype == "tf32"), route, queries, keys, width)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("f32", [0, 1]), ("tf32", [1, 1]), ("bf16", [1, 1]), ("f16", [1, 0]), ("f64", [0, 0])]
)
def test_large_problems_are_chunked_where_it_pays(dtype: str, expected: list[int]) -> None:
    assert routes(dtype, AUTO, 1000, 16000, 512) == expected


@pytest.mark.parametrize(
    ("queries", "keys", "width"),
    [(47, 10**6, 1024), (1000, 10**6, 255), (256, 1600, 512), (64, 16000, 1024), (0, 16000, 512), (1000, 16000, 0)],
)
def test_small_problems_are_fused(queries: int, keys: int, width: int) -> None:
    assert routes("bf16", AUTO, queries, keys, width) == [0, 0]


def test_the_least_work_that_is_chunked() -> None:
    assert routes("bf16", AUTO, 64, 2**15, 512) == [1, 1]
    assert routes("bf16", AUTO, 64, 2**15 - 1, 512) == [0, 0]
    assert routes("bf16", AUTO, 48, 2**20, 256) == [1, 1]


@pytest.mark.parametrize("dtype", ["f32", "tf32", "bf16", "f16", "f64"])
def test_a_route_that_is_asked_for_is_taken(dtype: str) -> None:
    assert routes(dtype, FUSED, 1000, 16000, 512) == [0, 0]
    assert routes(dtype, CHUNKED, 1, 1, 1) == [1, int(dtype != "f16")]


def test_kernels_that_are_launched() -> None:
    def launched(kernel: Kernel, shape: dict[str, Any], dtype: str = "f32") -> list[str]:
        problem = kernel.problem(shape, dtype, np.random.default_rng(0))
        process = worker(Target(HERE / "drivers" / DRIVER))
        process.call(kernel.function, problem.sizes, problem.buffers, Schedule())
        return [name for name in process.launches if name != "product_kernel"]

    answer("chunked_sizes", 1, 1, 1, 0)  # skips without a compiler
    assert launched(FORWARD, forward_shape(5, 300, 9, 6, limits=SMALL)) == ["class_sums_kernel"] * 3
    two = launched(FORWARD, forward_shape(5, 10, 9, 6, 3))
    assert two == ["class_sums_kernel", "disagreement_kernel"]
    keys_only = launched(BACKWARD, backward_shape(5, 300, 9, 6, how="keys only", limits=SMALL))
    assert keys_only == ["transpose_kernel", *["weights_kernel"] * 3]  # a chunk's keys have one product
    both = launched(BACKWARD, backward_shape(5, 140, 9, 6), "bf16")
    assert both == ["transpose_kernel", "weights_kernel", "add_kernel", "add_kernel", "row_gradients_kernel"]
