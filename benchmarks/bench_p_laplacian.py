"""p_laplacian against its rivals: ``make bench``.

Rivals, all on the same tensors in the same run. From probabilities: the released form (``[B, H, n, n, d]``
differences over the stacked query and value nodes, re-derived from the formula), the best eager form (distances
through products), ``torch.compile`` of it. From scores: softmax and the eager form, ``torch.compile`` of that, and
``scaled_dot_product_attention``, which computes the context alone. Compare within a group, as ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import timing
from vlmadapt.ops import p_laplacian, p_laplacian_attention

HEADS, WIDTH, FEATURES = 12, 64, 8
P, MU, EPS = 1.5, 0.1, 1e-8
SHAPES = {
    "B8_n40": (8, 40, 40),
    "B2_40x197": (2, 40, 197),
    "B2_40x577": (2, 40, 577),
    "B1_617x617": (1, 617, 617),
}
LARGE = "B2_40x577"
KEYS = (40, 197, 577, 1024, 2048, 4096)
MOST_RELEASED = 577  # keys; beyond, its differences [B, H, n, n, d] would not fit


class Case:
    """One shape's tensors and every rival as a function of them."""

    def __init__(self, batch: int, queries: int, keys: int) -> None:
        source = torch.Generator(device=timing.device()).manual_seed(0)

        def draw(rows: int, columns: int) -> Tensor:
            return torch.randn(batch, HEADS, rows, columns, generator=source)

        self.query, self.key, self.value = draw(queries, WIDTH), draw(keys, WIDTH), draw(keys, WIDTH)
        self.x_query, self.x_value = draw(queries, FEATURES), draw(keys, FEATURES)
        self.attention = (self.query @ self.key.mT * WIDTH**-0.5).softmax(-1)
        self.grad, self.grad_context = draw(queries, FEATURES), draw(queries, WIDTH)

    def probabilities(self) -> list[Tensor]:
        return [self.attention, self.x_query, self.x_value]

    def scores(self) -> list[Tensor]:
        return [self.query, self.key, self.x_query, self.x_value, self.value]


def ours(attention: Tensor, x_query: Tensor, x_value: Tensor) -> Tensor:
    return p_laplacian(attention, x_query, x_value, P, MU)


def eager(attention: Tensor, x_query: Tensor, x_value: Tensor) -> Tensor:
    squares = x_query.square().sum(-1, keepdim=True) + x_value.square().sum(-1).unsqueeze(-2)
    squared = (squares - 2 * (x_query @ x_value.mT)).clamp(min=1e-12)
    weights = attention * (attention * squared).pow((P - 2) / 2)
    pull = 2 * MU / P
    return (weights @ x_value + pull * x_query) / (weights.sum(-1, keepdim=True) + pull)


def released(attention: Tensor, x_query: Tensor, x_value: Tensor) -> Tensor:
    """Over all n = Lq + Lk nodes, of which only the rows of the queries are used."""
    queries, keys = attention.shape[-2:]
    nodes = torch.cat([x_query, x_value], -2)
    zeros = attention.new_zeros
    above = torch.cat([zeros(*attention.shape[:2], queries, queries), attention], -1)
    below = torch.cat([attention.mT, zeros(*attention.shape[:2], keys, keys)], -1)
    adjacency = torch.cat([above, below], -2)
    gradient = adjacency.sqrt().unsqueeze(-1) * (nodes.unsqueeze(-2) - nodes.unsqueeze(-3)) + EPS
    weights = adjacency * gradient.norm(dim=-1).pow(P - 2)
    pull = 2 * MU / P
    out = (weights @ nodes + pull * nodes) / (weights.sum(-1, keepdim=True) + pull)
    return out[:, :, :queries]


def scores_ours(query: Tensor, key: Tensor, x_query: Tensor, x_value: Tensor, value: Tensor) -> Tensor:
    return p_laplacian_attention(query, key, x_query, x_value, P, MU).out


def scores_ours_context(query: Tensor, key: Tensor, x_query: Tensor, x_value: Tensor, value: Tensor) -> list[Tensor]:
    out, context, _lse = p_laplacian_attention(query, key, x_query, x_value, P, MU, value=value)
    assert context is not None
    return [out, context]


def scores_eager(query: Tensor, key: Tensor, x_query: Tensor, x_value: Tensor, value: Tensor) -> Tensor:
    return eager((query @ key.mT * WIDTH**-0.5).softmax(-1), x_query, x_value)


def attention_alone(query: Tensor, key: Tensor, x_query: Tensor, x_value: Tensor, value: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value)


FUNCTIONS: dict[str, dict[str, Callable[..., Tensor | list[Tensor]]]] = {
    "probabilities": {"ours": ours, "released": released, "eager": eager, "compiled": eager},
    "scores": {
        "ours": scores_ours,
        "ours_with_context": scores_ours_context,
        "eager": scores_eager,
        "compiled": scores_eager,
        "sdpa": attention_alone,
    },
}
RIVALS = [(entry, rival) for entry, functions in FUNCTIONS.items() for rival in functions]
OPERATIONS = {"probabilities": "p_laplacian", "scores": "p_laplacian_attention"}


def function_of(entry: str, rival: str) -> Callable[..., Tensor | list[Tensor]]:
    function = FUNCTIONS[entry][rival]
    return torch.compile(function, dynamic=False) if rival == "compiled" else function


def step_of(case: Case, entry: str, rival: str, backward: bool) -> Callable[[], object]:
    """One call; with ``backward`` the gradients of every floating input too."""
    function, inputs = function_of(entry, rival), getattr(case, entry)()
    if not backward:
        return lambda: function(*inputs)
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]

    def step() -> None:
        results = function(*inputs)
        results = results if isinstance(results, list) else [results]
        grads = [case.grad if x.shape == case.grad.shape else case.grad_context for x in results]
        torch.autograd.grad(results, inputs, grads, allow_unused=True)

    return step


def kind(backward: bool) -> str:
    return "forward + backward" if backward else "forward"


@pytest.mark.parametrize(("entry", "rival"), RIVALS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("shape", SHAPES)
def test_speed(benchmark: Any, shape: str, entry: str, rival: str, backward: bool) -> None:
    benchmark.group = f"{OPERATIONS[entry]} | {kind(backward)} | {shape}"
    if rival == "released" and backward and "617" in shape:
        pytest.skip("the released form would hold some 6 GB of differences, several times over")
    case = Case(*SHAPES[shape])
    if rival in ("ours", "eager", "compiled"):
        inputs = getattr(case, entry)()
        exact = FUNCTIONS[entry]["eager"](*[tensor.double() for tensor in inputs])
        result = function_of(entry, rival)(*inputs)
        assert isinstance(result, Tensor) and isinstance(exact, Tensor)
        torch.testing.assert_close(result.double(), exact, rtol=1e-3, atol=1e-4)
        benchmark.extra_info["error"] = ((result - exact).abs().max() / exact.abs().max()).item()
    timing.run(benchmark, step_of(case, entry, rival, backward))


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
