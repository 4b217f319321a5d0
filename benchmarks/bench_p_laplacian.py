"""p_laplacian against its rivals: ``make bench``.

Rivals, all on the same tensors in the same run. From probabilities: the released form (``[B, H, n, n, d]``
differences over the stacked query and value nodes, re-derived from the formula), the best eager form (distances
through products), ``torch.compile`` of it. From scores: softmax and the eager form, ``torch.compile`` of that, and
``scaled_dot_product_attention``, which computes the context alone. Compare within a group, as ratios.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import timing
from benchmarks.exact import record_error
from benchmarks.rivals.p_laplacian import FUNCTIONS, Case, eager, released, step_of

# Features of a whole head, as where the p-adapter takes the place of the attention.
WIDE = {
    "B1_577x577_d64": (1, 577, 577, 64),
    "B2_577x577_d64": (2, 577, 577, 64),
    "B1_1024x1024_d64": (1, 1024, 1024, 64),
    "B1_577x577_d128": (1, 577, 577, 128),
}
SHAPES = {
    "B8_n40": (8, 40, 40),
    "B2_40x197": (2, 40, 197),
    "B2_40x577": (2, 40, 577),
    "B1_617x617": (1, 617, 617),
}
LARGE = "B2_40x577"
KEYS = (40, 197, 577, 1024, 2048, 4096)
MOST_RELEASED = 577  # keys; beyond, its differences [B, H, n, n, d] would not fit


RIVALS = [(entry, rival) for entry, functions in FUNCTIONS.items() for rival in functions]
OPERATIONS = {"probabilities": "p_laplacian", "scores": "p_laplacian_attention"}


def kind(backward: bool) -> str:
    return "forward + backward" if backward else "forward"


@pytest.mark.parametrize(("entry", "rival"), RIVALS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("shape", [*SHAPES, *WIDE])
def test_speed(benchmark: Any, shape: str, entry: str, rival: str, backward: bool) -> None:
    benchmark.group = f"{OPERATIONS[entry]} | {kind(backward)} | {shape}"
    if rival == "released" and (shape in WIDE or (backward and "617" in shape)):
        pytest.skip("the released form would hold some 4 or 6 GB of differences, several times over")
    case = Case(*(SHAPES | WIDE)[shape])
    step = step_of(case, entry, rival, backward)
    if rival in ("ours", "eager", "compiled"):
        exact = step_of(case, entry, "eager", backward, torch.float64)
        record_error(benchmark, step(), exact(), 1e-3)
    timing.run(benchmark, step)


def test_the_released_form_is_the_formula() -> None:
    case = Case(1, 5, 7)
    torch.testing.assert_close(released(*case.probabilities()), eager(*case.probabilities()), rtol=1e-3, atol=1e-4)


@timing.needs_proc
@pytest.mark.parametrize("rival", ["ours", "released", "eager"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_memory(benchmark: Any, rival: str, backward: bool) -> None:
    benchmark.group = f"p_laplacian | memory, {kind(backward)} | {LARGE}"
    timing.record_memory(benchmark, __name__, f"memory('probabilities', {rival!r}, {SHAPES[LARGE]}, {backward})")


def memory(entry: str, rival: str, shape: tuple[int, int, int], backward: bool) -> float:
    step_of(Case(1, 3, 5), entry, rival, backward)()  # loads code and starts threads
    return timing.extra_mib(step_of(Case(*shape), entry, rival, backward))


@timing.needs_proc
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize(
    ("entry", "rival"), [("probabilities", r) for r in ("ours", "eager", "released")] + [("scores", "ours")]
)
def test_scaling(benchmark: Any, entry: str, rival: str, keys: int) -> None:
    """Time and extra memory of forward + backward against the number of keys, 40 queries."""
    benchmark.group = f"{OPERATIONS[entry]} | scaling, 40 queries, 12 heads"
    if rival == "released" and keys > MOST_RELEASED:
        pytest.skip("the released form would not fit")
    shape = (1, 40, keys)
    timing.run(benchmark, step_of(Case(*shape), entry, rival, True), rounds=5)
    mib = timing.in_a_process(__name__, f"memory({entry!r}, {rival!r}, {shape}, True)")
    benchmark.extra_info |= {"x": keys, "x_name": "keys", "slope": 1, "memory_slope": 1, "mib": max(mib, 0.05)}
