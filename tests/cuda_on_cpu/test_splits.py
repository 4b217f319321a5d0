"""How cache_retrieval cuts its work, and the kernels that a call launches, as the emulation counts them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from .harness import toolchain
from .harness.build import HERE, Target
from .harness.case import Kernel, worker
from .harness.process import Schedule, Worker
from .test_cache_retrieval import BACKWARD, FORWARD, backward_shape, forward_shape
from .test_cache_retrieval_dense import BACKWARD as DENSE_BACKWARD
from .test_cache_retrieval_dense import sizes as dense_shape

H200 = 132
LARGEST_GRID, LARGEST_WORKSPACE = 65535, 64 << 20


def emulation(driver: str = "cache_retrieval.cu") -> Worker:
    target = Target(HERE / "drivers" / driver)
    if reason := toolchain.missing(target.route, target.build):
        pytest.skip(reason)
    return worker(target)


def answer(function: str, *sizes: int) -> int:
    return int(emulation().call(function, sizes, {"out": np.zeros(1, np.int64)}, Schedule())["out"][0])


def parts(owner_tiles: int, tiles: int, multiprocessors: int = H200, largest: int = LARGEST_GRID) -> int:
    return answer("cache_splits", owner_tiles, tiles, largest, multiprocessors)


def up(a: int, b: int) -> int:
    return -(-a // b)


def cost(owner_tiles: int, tiles: int, multiprocessors: int, cut: int) -> int:
    """Tiles of the multiprocessor that finishes last."""
    return up(owner_tiles * cut, multiprocessors) * up(tiles, cut)


@pytest.mark.parametrize("multiprocessors", [2, 108, H200])
def test_no_cut_of_as_many_rounds_is_cheaper(multiprocessors: int) -> None:
    for owner_tiles, tiles in itertools.product([1, 2, 3, 4, 16, 64, 70, 131, 133, 250, 1000], [1, 2, 7, 25, 250, 999]):
        cut = parts(owner_tiles, tiles, multiprocessors)
        uncut = up(owner_tiles, multiprocessors)
        rounds = 2 * uncut if uncut > 2 else 4
        others = [s for s in range(1, tiles + 1) if up(owner_tiles * s, multiprocessors) <= rounds]
        assert cut in others and up(tiles, up(tiles, cut)) == cut  # no part is empty
        cheapest = min(cost(owner_tiles, tiles, multiprocessors, s) for s in others)
        assert cost(owner_tiles, tiles, multiprocessors, cut) == cheapest, (owner_tiles, tiles)


@pytest.mark.parametrize(
    ("owner_tiles", "tiles", "expected"),
    [
        (1, 250, 250),  # 64 queries, 16,000 keys: two blocks a multiprocessor, of a tile each
        (1, 25, 25),
        (4, 25, 25),  # 256 queries, 1,600 keys
        (16, 250, 16),  # 1,000 queries: 256 blocks, where 272 would give eight multiprocessors a third
        (250, 16, 1),
        (0, 0, 1),
    ],
)
def test_cuts_for_an_h200(owner_tiles: int, tiles: int, expected: int) -> None:
    assert parts(owner_tiles, tiles) == expected


def test_neither_the_grid_nor_the_workspace_grows_without_bound() -> None:
    assert parts(1, 10**6, largest=3) == 3
    assert parts(1, 10**6, multiprocessors=10**5) <= LARGEST_GRID
    for queries, keys, width in [(64, 16000, 1024), (256, 1600, 512), (4096, 64000, 768), (1, 10**6, 4096)]:
        for want in itertools.product([0, 1], repeat=3):
            sums = 2 * queries * 4 * 1000
            assert answer("cache_backward_workspace", 0, queries, keys, width, *want) <= LARGEST_WORKSPACE + sums
    assert answer("cache_backward_workspace", 0, 256, 1600, 512, 0, 0, 0) == 0


def launched(kernel: Kernel, shape: dict[str, object], dtype: str = "f32") -> list[str]:
    problem = kernel.problem(shape, dtype, np.random.default_rng(0))
    process = emulation(kernel.driver)
    problem.check(process.call(kernel.function, problem.sizes, problem.buffers, Schedule()))
    return process.launches


@pytest.mark.parametrize("how", ["number", "plain", "mask"])
def test_a_forward_is_one_kernel(how: str) -> None:
    assert launched(FORWARD, forward_shape(6, 140, 4, 24, how=how)) == ["forward_kernel"]


def test_a_disagreement_is_a_kernel_more() -> None:
    assert launched(FORWARD, forward_shape(6, 140, 4, 24, 8, "number silent")) == ["forward_kernel"]
    assert launched(FORWARD, forward_shape(6, 140, 4, 24, 8)) == ["forward_kernel", "disagreement_kernel"]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("keys only", ["backward_kernel"]),  # Tip-Adapter-F: a fixed beta, queries without gradient
        ("queries only", ["backward_kernel", "sum_kernel", "row_gradients_kernel"]),
        ("matrices only", ["backward_kernel", "sum_kernel", "backward_kernel"]),
        ("rows only", ["backward_kernel", "row_gradients_kernel"]),
        ("plain", ["backward_kernel", "sum_kernel", "row_gradients_kernel", "backward_kernel"]),
    ],
)
def test_a_backward_passes_over_what_is_wanted(how: str, expected: list[str]) -> None:
    assert launched(BACKWARD, backward_shape(6, 140, 4, 24, how)) == expected


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("keys only", ["dense_kernel"]),
        ("values only", ["dense_kernel"]),
        ("matrices only", ["dense_kernel", "sum_kernel", "dense_kernel", "dense_kernel"]),
    ],
)
def test_a_backward_with_values_too(how: str, expected: list[str]) -> None:
    assert launched(DENSE_BACKWARD, dense_shape(6, 140, 4, 24, how)) == expected
