"""The p-Laplacian operators in plain PyTorch: readable, slow, the truth of the tests.

They hold the ``[B, H, Lq, Lk, d]`` differences. Arguments and results are those of
:mod:`vlmadapt.ops.p_laplacian.function`, where they and the sources (arXiv 2312.10613 and 2111.07337) are described.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vlmadapt.ops.attention import attention_probabilities

Residual = Literal["query", "none"]
SelfLoops = Literal["drop", "keep"]
Degree = Literal["none", "paper"]


class PLaplacianOutput(NamedTuple):
    """``out`` [B, H, Lq, d]; ``context`` [B, H, Lq, ev] where ``value`` was given; ``lse`` [B, H, Lq] on request."""

    out: Tensor
    context: Tensor | None
    lse: Tensor | None


def coincidence(dtype: torch.dtype) -> float:
    """Squared distances below this count as exact coincidences; their powers would leave the type's range."""
    return 1e-290 if dtype == torch.float64 else 1e-30


def unseen(dtype: torch.dtype) -> float:
    """Keys whose column sum is below this count as seen by nobody; powers of the root's inverse stay within range."""
    return 1e-200 if dtype == torch.float64 else 1e-24


def divided_by_degree(x_value: Tensor, column_sums: Tensor) -> Tensor:
    """``x_value[j] / sqrt(c[j])`` [B, H, Lk, d] for column sums ``c`` [B, H, Lk]; 0 for a key that nobody sees."""
    empty = column_sums < unseen(column_sums.dtype)
    factor = torch.where(empty, 0, torch.where(empty, 1, column_sums).rsqrt())
    return x_value * factor.unsqueeze(-1)


def p_laplacian_reference(
    attention: Tensor,
    x_query: Tensor,
    x_value: Tensor,
    p: Tensor | float,
    mu: Tensor | float,
    *,
    residual: Residual = "query",
    self_loops: SelfLoops = "drop",
    degree: Degree = "none",
    homogeneous: bool = False,
    eps: float = 1e-8,
) -> Tensor:
    """``out`` [B, H, Lq, d], as :func:`vlmadapt.ops.p_laplacian` gives it."""
    p, mu = _of_heads(p, attention), _of_heads(mu, attention)
    if degree == "paper":
        x_value = divided_by_degree(x_value, attention.sum(-2))
    difference = x_query.unsqueeze(-2) - x_value.unsqueeze(-3)
    present = attention != 0
    if homogeneous and self_loops == "drop":
        present = present & ~_self_pairs(attention)
    weight = torch.where(present, attention, 1)
    if self_loops == "keep":
        squared = (weight.sqrt().unsqueeze(-1) * difference + eps).square().sum(-1)
        squared = squared.clamp(min=torch.finfo(squared.dtype).tiny)  # no features, no length
    else:
        distance = difference.square().sum(-1)
        coincident = distance < coincidence(distance.dtype)
        present = present & ~(coincident & (p != 2))  # for p > 2 such a pair weighs nothing, for p < 2 it is dropped
        squared = torch.where(present & ~coincident, weight * distance, 1)
    pairs = torch.where(present, weight * squared.pow((p - 2) / 2), 0)
    pull = 2 * mu / p
    total = pairs.sum(-1, keepdim=True) + pull
    home = x_query if residual == "query" else torch.zeros_like(x_query)
    alone = total == 0  # no neighbour and mu = 0: the limit of small mu
    out = (pairs @ x_value + pull * home) / torch.where(alone, 1, total)
    return torch.where(alone, home, out)


def p_laplacian_attention_reference(
    query: Tensor,
    key: Tensor,
    x_query: Tensor,
    x_value: Tensor,
    p: Tensor | float,
    mu: Tensor | float,
    *,
    value: Tensor | None = None,
    mask: Tensor | None = None,
    is_causal: bool = False,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    residual: Residual = "query",
    self_loops: SelfLoops = "drop",
    degree: Degree = "none",
    homogeneous: bool = False,
    eps: float = 1e-8,
    return_lse: bool = False,
) -> PLaplacianOutput:
    """The result of :func:`vlmadapt.ops.p_laplacian_attention`, through the stored attention probabilities."""
    attention, lse = attention_probabilities(query, key, mask, is_causal, key_lengths, scale)
    out = p_laplacian_reference(
        attention,
        x_query,
        x_value,
        p,
        mu,
        residual=residual,
        self_loops=self_loops,
        degree=degree,
        homogeneous=homogeneous,
        eps=eps,
    )
    return PLaplacianOutput(out, None if value is None else attention @ value, lse if return_lse else None)


def _of_heads(value: Tensor | float, like: Tensor) -> Tensor:
    """A number or one value a head, as [1 or H, 1, 1]."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def _self_pairs(attention: Tensor) -> Tensor:
    """bool [Lq, Lk]: the queries are the last Lq of the Lk nodes."""
    queries, keys = attention.shape[-2:]
    node = torch.arange(queries, device=attention.device) + (keys - queries)
    return node.unsqueeze(-1) == torch.arange(keys, device=attention.device)
