"""The rivals of p_laplacian and p_laplacian_attention: without pytest, so that they run where there is torch alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.rivals import compiled
from vlmadapt.ops import p_laplacian, p_laplacian_attention

HEADS, WIDTH, FEATURES = 12, 64, 8
P, MU, EPS = 1.5, 0.1, 1e-8


class Case:
    """One shape's tensors and every rival as a function of them."""

    def __init__(
        self, batch: int, queries: int, keys: int, features: int = FEATURES, dtype: torch.dtype = torch.float32
    ) -> None:
        source = torch.Generator(device=torch.get_default_device()).manual_seed(0)

        def draw(rows: int, columns: int) -> Tensor:
            return torch.randn(batch, HEADS, rows, columns, generator=source).to(dtype)

        self.query, self.key, self.value = draw(queries, WIDTH), draw(keys, WIDTH), draw(keys, WIDTH)
        self.x_query, self.x_value = draw(queries, features), draw(keys, features)
        self.attention = (self.query @ self.key.mT * WIDTH**-0.5).softmax(-1)
        self.grad, self.grad_context = draw(queries, features), draw(queries, WIDTH)

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


def scores_ours_degrees(query: Tensor, key: Tensor, x_query: Tensor, x_value: Tensor, value: Tensor) -> Tensor:
    return p_laplacian_attention(query, key, x_query, x_value, P, MU, degree="paper").out


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
        "ours_with_degrees": scores_ours_degrees,
        "eager": scores_eager,
        "compiled": scores_eager,
        "sdpa": attention_alone,
    },
}


def function_of(entry: str, rival: str) -> Callable[..., Tensor | list[Tensor]]:
    function = FUNCTIONS[entry][rival]
    return compiled(function) if rival == "compiled" else function


def step_of(
    case: Case, entry: str, rival: str, backward: bool, dtype: torch.dtype | None = None
) -> Callable[[], list[Tensor]]:
    """One call, in ``dtype`` where that is given: its results, or with ``backward`` the gradients of every input."""
    function = function_of(entry, rival)
    inputs = [tensor.to(dtype or tensor.dtype, copy=backward) for tensor in getattr(case, entry)()]

    def forward() -> list[Tensor]:
        results = function(*inputs)
        return results if isinstance(results, list) else [results]

    def step() -> list[Tensor]:
        results = forward()
        grads = [(case.grad if x.shape == case.grad.shape else case.grad_context).to(x.dtype) for x in results]
        found = torch.autograd.grad(results, inputs, grads, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]

    if not backward:
        return forward
    inputs = [tensor.requires_grad_() for tensor in inputs]
    return step
