"""``degree="paper"``: equal to the adapter paper's equations 9 to 15 over its augmented nodes, and what is special."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.test_p_laplacian import SCORES, Data, gradients
from vlmadapt import ops
from vlmadapt.errors import InputError
from vlmadapt.ops import p_laplacian, p_laplacian_attention

PAPER: dict[str, Any] = {"degree": "paper"}


def equations(m: Tensor, x_query: Tensor, x_value: Tensor, p: Tensor, mu: Tensor) -> Tensor:
    """Query rows of equation 15 of arXiv 2312.10613 for one head, in matrices over all queries and keys.

    m [Lq, Lk], x_query [Lq, d], x_value [Lk, d]; a node without edges takes no part.
    """
    queries, keys = m.shape
    nodes = torch.cat([x_query, x_value])
    zeros = (m.new_zeros(n, n) for n in (queries, keys))
    adjacency = torch.cat([torch.cat([next(zeros), m], 1), torch.cat([m.T, next(zeros)], 1)])  # 9
    degree = adjacency.sum(1)
    present = adjacency > 0
    edge = torch.where(present, adjacency, 1)
    root = torch.where(degree > 0, degree, 1).sqrt()
    normal = nodes / root.unsqueeze(1)  # D^-1/2 V
    difference = edge.sqrt().unsqueeze(-1) * (normal.unsqueeze(1) - normal.unsqueeze(0))
    squared = torch.where(present, difference.square().sum(-1), 1)
    weights = torch.where(present, edge * squared ** ((p - 2) / 2), 0)  # 12, 14
    alpha = 1 / (weights.sum(1) / root**2 + 2 * mu / p)  # 13
    beta = 2 * mu / p * alpha
    moved = (alpha / root).unsqueeze(1) * (weights @ normal) + beta.unsqueeze(1) * nodes  # 15
    return moved[:queries]


def of_every_head(function: Callable[..., Tensor], attention: Tensor, *nodes: Tensor, p: Tensor, mu: Tensor) -> Tensor:
    heads = [
        function(attention[b, h], *(x[b, h] for x in nodes), p[h], mu[h])
        for b in range(attention.shape[0])
        for h in range(attention.shape[1])
    ]
    return torch.stack(heads).reshape(*attention.shape[:2], *heads[0].shape)


SHAPES = [(1, 2, 5, 9, 4, 4, 3), (2, 2, 9, 5, 3, 2, 4), (1, 1, 1, 7, 4, 4, 8), (1, 2, 60, 70, 8, 8, 16)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [1.0, 1.25, 1.5, 2.0, 2.5])
@pytest.mark.parametrize("mu", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("entry", ["probabilities", "scores"])
def test_results_and_gradients_are_those_of_the_equations(
    shape: tuple[int, ...], p: float, mu: float, entry: str
) -> None:
    """The gradient of probabilities along those that stay probabilities: the equations' rows have a degree too."""
    results = []
    for ours in (True, False):
        inputs = Data(shape).inputs("query key x_query x_value")
        inputs |= {
            n: torch.full((shape[1],), x, dtype=torch.float64).requires_grad_() for n, x in (("p", p), ("mu", mu))
        }
        query, key, *nodes = inputs.values()
        attention = (query @ key.mT / shape[4] ** 0.5).softmax(-1)
        if ours and entry == "scores":
            out = p_laplacian_attention(**inputs, degree="paper").out
        elif ours:
            out = p_laplacian(attention, *nodes, degree="paper")
        else:
            out = of_every_head(equations, attention, *nodes[:2], p=nodes[2], mu=nodes[3])
        results.append([out, *gradients(inputs, out)])
    for number, (x, expected) in enumerate(zip(*results, strict=True)):
        size = expected.abs().max().clamp(min=1).item()
        torch.testing.assert_close(x, expected, rtol=0, atol=(1e-12 if number == 0 else 1e-11) * size)


def test_masked_keys_and_queries_take_no_part() -> None:
    """A key that nobody sees is as if it were not there: the equations over the other keys, gradients zero."""
    data = Data((1, 2, 6, 9, 4, 3, 5))
    mask = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) > 0.3
    mask[:, 7:] = False
    mask[:, 2] = False
    mask[3] = False
    seen = mask.any(0)
    inputs = data.inputs(SCORES)
    out = p_laplacian_attention(**inputs, mask=mask, degree="paper").out
    scores = (data.query @ data.key.mT / 2).masked_fill(~mask, -torch.inf)
    attention = torch.where(mask, scores, 0).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)
    expected = of_every_head(
        equations, attention[..., seen], data.x_query, data.x_value[:, :, seen], p=data.p, mu=data.mu
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(out[:, :, 3], data.x_query[:, :, 3])
    for name, grad in zip(
        inputs, torch.autograd.grad(out.sum(), list(inputs.values()), allow_unused=True), strict=True
    ):
        if grad is not None:
            assert grad.isfinite().all(), name
            if name in ("key", "x_value"):
                assert (grad[:, :, ~seen] == 0).all(), name
    del inputs["query"], inputs["key"], inputs["value"]
    given = p_laplacian(attention, **inputs, degree="paper")
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-12)
    assert all(x.isfinite().all() for x in torch.autograd.grad(given.sum(), list(inputs.values())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shift", [-20.0, -50.0, -56.0, -60.0, -85.0, -100.0, -1e4])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_keys_that_are_hardly_seen_are_finite(dtype: torch.dtype, shift: float, p: float) -> None:
    """Roots of sums down to the smallest numbers: nothing overflows, and such keys weigh nothing."""
    data = Data((1, 2, 6, 9, 4, 3, 5), dtype)
    data.p = torch.full((2,), p, dtype=data.p.dtype)
    mask = torch.zeros(9, dtype=data.p.dtype)
    mask[2:4] = shift
    inputs = data.inputs(SCORES)
    result = p_laplacian_attention(**inputs, mask=mask, degree="paper")
    assert result.context is not None
    grads = gradients(inputs, result.out, result.context)
    assert all(x.isfinite().all() for x in (result.out, *grads))
    if shift <= -50:
        mask[2:4] = -torch.inf
        without = p_laplacian_attention(**data.inputs(SCORES), mask=mask, degree="paper").out
        torch.testing.assert_close(result.out, without, rtol=1e-3, atol=1e-3)


def test_the_identity_with_scaled_values() -> None:
    data = Data((2, 3, 11, 17, 4, 3, 6))
    factor = data.attention.sum(-2).rsqrt().unsqueeze(-1)
    switches: list[dict[str, Any]] = [{}, {"residual": "none"}, {"self_loops": "keep"}, {"homogeneous": True}]
    for options in switches:
        nodes = data.inputs("attention x_query x_value p mu", False)
        ours = p_laplacian(**nodes, **options, degree="paper")
        nodes["x_value"] = nodes["x_value"] * factor
        torch.testing.assert_close(ours, p_laplacian(**nodes, **options), rtol=1e-12, atol=1e-12)


def test_at_p_two_values_grow_with_keys_a_query() -> None:
    """What the documentation says: uniform attention of Lq queries gives sqrt(Lk / Lq) times the mean."""
    x_query, x_value = torch.zeros(1, 1, 4, 3), torch.ones(1, 1, 36, 3)
    out = p_laplacian(torch.full((1, 1, 4, 36), 1 / 36), x_query, x_value, 2.0, 0.0, degree="paper")
    torch.testing.assert_close(out, torch.full_like(x_query, 3.0))


def test_decoding_step_by_step_differs_from_the_whole() -> None:
    """A key's degree counts later queries: the last row of a causal call is no step of a decoder with a cache."""
    data = Data((1, 2, 9, 9, 4, 3, 6))
    x = data.x_query
    for degree, equal in (("none", True), ("paper", False)):
        options: dict[str, Any] = {"is_causal": True, "homogeneous": True, "degree": degree}
        whole = p_laplacian_attention(data.query, data.key, x, x, 1.5, 0.1, **options).out
        last = (data.query[:, :, -1:], data.key, x[:, :, -1:], x)
        step = p_laplacian_attention(*last, 1.5, 0.1, **options).out
        assert torch.allclose(step, whole[:, :, -1:]) is equal


def degrees_of(x_value: Tensor, attention: Tensor) -> Tensor:
    return x_value * attention.sum(-2).rsqrt().unsqueeze(-1)


def gram_eager(attention: Tensor, x_query: Tensor, x_value: Tensor, p: Tensor, mu: Tensor) -> Tensor:
    x_value = degrees_of(x_value, attention)
    squares = x_query.square().sum(-1, keepdim=True) + x_value.square().sum(-1).unsqueeze(-2)
    distance = (squares - 2 * x_query @ x_value.mT).clamp(min=1e-12)
    p, pull = p.reshape(-1, 1, 1), (2 * mu / p).reshape(-1, 1, 1)
    weights = attention * (attention * distance).pow((p - 2) / 2)
    return (weights @ x_value + pull * x_query) / (weights.sum(-1, keepdim=True) + pull)


def eager_attention(query: Tensor, key: Tensor, **nodes: Tensor) -> dict[str, Tensor]:
    return {"out": gram_eager((query @ key.mT * query.shape[-1] ** -0.5).softmax(-1), **nodes)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("p", [1.25, 2.0])
@pytest.mark.parametrize("entry", ["probabilities", "scores"])
def test_error_is_at_most_twice_that_of_eager(dtype: torch.dtype, p: float, entry: str) -> None:
    def draw(seed: int) -> Draw:
        data = Data((1, 3, 90, 170, 16, 1, 8), dtype, seed)
        vectors = {"p": torch.full((3,), p), "mu": torch.full((3,), 0.125)}
        if entry == "probabilities":
            inputs = data.inputs("attention x_query x_value", False) | vectors
            return draw_of(
                lambda **x: {"out": p_laplacian(**x, **PAPER)}, lambda **x: {"out": gram_eager(**x)}, inputs, seed
            )
        inputs = data.inputs("query key x_query x_value", False) | vectors
        return draw_of(lambda **x: {"out": p_laplacian_attention(**x, **PAPER).out}, eager_attention, inputs, seed)

    assert_accurate(draw)


def test_nan_in_a_key_is_seen() -> None:
    inputs = Data((1, 1, 5, 7, 4, 3, 6), torch.float32).inputs(SCORES, False)
    inputs["key"][0, 0, 2, 1] = torch.nan
    assert p_laplacian_attention(**inputs, degree="paper").out.isnan().all()


def test_another_degree_is_refused() -> None:
    one, options = torch.ones(1, 1, 1, 1), {"degree": "both"}
    with pytest.raises(InputError, match="degree is 'both': choose 'none' or 'paper'"):
        p_laplacian(one, one, one, 1.5, 0.1, **options)  # type: ignore[arg-type]


def test_both_forms_of_the_switch() -> None:
    """In plain PyTorch too."""
    data = Data((1, 2, 6, 9, 4, 3, 5))
    ours = p_laplacian_attention(**data.inputs(SCORES, False), degree="paper").out
    with ops.use_reference():
        torch.testing.assert_close(p_laplacian_attention(**data.inputs(SCORES, False), degree="paper").out, ours)
