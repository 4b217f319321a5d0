"""How p_laplacian cuts its work, and the kernels that a call launches, as the emulation counts them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from .harness import toolchain
from .harness.build import HERE, Target
from .harness.case import Kernel, worker
from .harness.numbers import DTYPE_CODE
from .harness.process import Schedule, Worker
from .test_p_laplacian import BACKWARD, FORWARD, shape

H200 = 132
TILE = 64


def emulation() -> Worker:
    target = Target(HERE / "drivers" / "p_laplacian.cu")
    if reason := toolchain.missing(target.route, target.build):
        pytest.skip(reason)
    return worker(target)


def cut(heads: int, owners: int, others: int, multiprocessors: int = H200, dtype: str = "f32") -> tuple[int, int, int]:
    """Tiles of owned rows, parts of the other side, rows of a part."""
    sizes = [DTYPE_CODE[dtype], heads, owners, others, multiprocessors]
    tiles, parts, share = emulation().call("p_laplacian_cut", sizes, {"out": np.zeros(3, np.int64)}, Schedule())["out"]
    return int(tiles), int(parts), int(share)


def test_parts_cover_the_other_side_and_none_is_empty() -> None:
    for heads, owners, others in itertools.product([1, 3, 24, 384], [1, 40, 64, 65, 577], [1, 64, 65, 200, 577, 5000]):
        tiles, parts, share = cut(heads, owners, others)
        assert tiles == -(-owners // TILE) and share % TILE == 0
        assert (parts - 1) * share < others <= parts * share, (heads, owners, others)
        assert parts == 1 or heads * tiles * parts <= 2 * H200  # two blocks a multiprocessor


@pytest.mark.parametrize(
    ("heads", "owners", "others", "expected"),
    [
        (24, 40, 577, (1, 10, 64)),  # few queries: a tile of keys a block
        (24, 577, 40, (10, 1, 64)),
        (24, 1, 5000, (1, 10, 512)),
        (384, 577, 577, (10, 1, 640)),  # enough queries
        (96, 40, 40, (1, 1, 64)),  # nothing to cut
        (1, 0, 5, (0, 1, 64)),
        (1, 5, 0, (1, 1, 0)),
        (0, 5, 5, (1, 1, 64)),
    ],
)
def test_cuts_for_an_h200(heads: int, owners: int, others: int, expected: tuple[int, int, int]) -> None:
    assert cut(heads, owners, others) == expected


def test_blocks_of_doubles_own_half_as_many_rows() -> None:
    assert cut(24, 40, 577, dtype="f64") == (2, 5, 128)


def launched(kernel: Kernel, sizes: dict[str, object]) -> list[str]:
    problem = kernel.problem(sizes, "f32", np.random.default_rng(0))
    process = emulation()
    problem.check(process.call(kernel.function, problem.sizes, problem.buffers, Schedule()))
    return process.launches


FEW, MANY = shape(1, 1, 5, 130, 3, 2, 4, "scores value"), shape(2, 2, 5, 130, 3, 2, 4, "scores value")


def test_only_parts_need_a_second_kernel() -> None:
    assert launched(FORWARD, MANY) == ["forward_kernel"]
    assert launched(FORWARD, FEW) == ["forward_kernel", "merge_kernel"]


def test_a_backward_adds_up_the_parts_of_either_pass() -> None:
    passes = ["prepare_kernel", "backward_kernel", "backward_kernel", "reduce_kernel"]
    assert launched(BACKWARD, MANY) == passes
    assert launched(BACKWARD, FEW) == [*passes[:2], "sum_kernel", *passes[2:]]
    assert launched(BACKWARD, shape(1, 1, 130, 5, 3, 2, 4, "scores value")) == [*passes[:3], "sum_kernel", passes[3]]
