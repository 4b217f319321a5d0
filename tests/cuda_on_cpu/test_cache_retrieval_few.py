"""The CUDA kernel of cache_retrieval for few queries on the CPU, against the formula in float64."""

from __future__ import annotations

import numpy as np
import pytest

from .harness import toolchain
from .harness.build import HERE, Target
from .harness.case import Case, Kernel, kernel_cases, worker
from .harness.numbers import DTYPE_CODE
from .harness.process import Schedule
from .test_cache_retrieval import forward_problem, forward_shape

DRIVER = "cache_retrieval_few.cu"

# The emulation has two multiprocessors: four shares, of whole rounds of 32 entries.
FEW = Kernel(
    name="cache_few",
    driver=DRIVER,
    function="few_queries",
    source="csrc/cache_retrieval_few/few.cuh:few_kernel",
    shapes=[
        forward_shape(1, 1, 1, 8),
        forward_shape(5, 0, 3, 8),
        forward_shape(1, 33, 3, 136),  # a key more than a round; a step, and a piece of the next
        forward_shape(4, 70, 90, 8),  # many classes of one or no entry
        forward_shape(2, 300, 5, 16),  # shares of 96, most classes across several
        forward_shape(3, 200, 1, 8),  # one class across all
        forward_shape(16, 300, 40, 264),  # three steps of float
        forward_shape(7, 700, 3, 8),  # shares of two tiles
        forward_shape(9, 1100, 700, 8, how="mask"),  # of three
        forward_shape(3, 70, 3000, 8),  # classes in two rounds of the search
        forward_shape(5, 66, 4, 24, how="number"),
        forward_shape(5, 66, 4, 24, how="single own"),
        forward_shape(1, 42, 4, 8, how="mask"),  # no whole number of four keys
    ],
    dtypes=["f32", "bf16", "f16", "f64"],
    problem=forward_problem,
)


@kernel_cases(FEW)
def test_few(case: Case) -> None:
    case.check()


def takes(dtype: str, queries: int, width: int, text: bool = False, moved: int = 0) -> bool:
    target = Target(HERE / "drivers" / DRIVER)
    if reason := toolchain.missing(target.route, target.build):
        pytest.skip(reason)
    sizes = [DTYPE_CODE[dtype], queries, width, int(text), moved]
    return bool(worker(target).call("few_takes", sizes, {"out": np.zeros(1, np.int64)}, Schedule())["out"][0])


def test_what_it_takes() -> None:
    assert takes("f32", 1, 512) and takes("bf16", 16, 1024) and takes("f64", 16, 512)
    assert not takes("f32", 17, 512) and not takes("f32", 0, 512)
    assert not takes("f32", 1, 512, text=True)
    assert not takes("f32", 1, 510) and not takes("bf16", 1, 516) and not takes("f32", 1, 512, moved=8)
    assert takes("f32", 16, 1280) and not takes("f32", 16, 1536)  # their shared memory would exceed 96 KB
    assert takes("f32", 1, 16384) and not takes("f64", 16, 1024)
