"""The p-Laplacian operators in plain PyTorch: readable, slow, the truth of the tests.

They hold the ``[B, H, Lq, Lk, d]`` differences. Arguments and results are those of
:mod:`vlmadapt.ops.p_laplacian.function`, where they and the sources (arXiv 2312.10613 and 2111.07337) are described.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Residual = Literal["query", "none"]
SelfLoops = Literal["drop", "keep"]


class PLaplacianOutput(NamedTuple):
    """``out`` [B, H, Lq, d]; ``context`` [B, H, Lq, ev] where ``value`` was given; ``lse`` [B, H, Lq] on request."""

    out: Tensor
    context: Tensor | None
    lse: Tensor | None


def coincidence(dtype: torch.dtype) -> float:
    """Squared distances below this count as exact coincidences; their powers would leave the type's range."""
    return 1e-290 if dtype == torch.float64 else 1e-30


def p_laplacian_reference(
    attention: Tensor,
    x_query: Tensor,
    x_value: Tensor,
    p: Tensor | float,
    mu: Tensor | float,
    *,
    residual: Residual = "query",
    self_loops: SelfLoops = "drop",
    homogeneous: bool = False,
    eps: float = 1e-8,
) -> Tensor:
    """``out`` [B, H, Lq, d], as :func:`vlmadapt.ops.p_laplacian` gives it."""
    p, mu = _of_heads(p, attention), _of_heads(mu, attention)
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
    homogeneous: bool = False,
    eps: float = 1e-8,
    return_lse: bool = False,
) -> PLaplacianOutput:
    """The result of :func:`vlmadapt.ops.p_laplacian_attention`, through the stored attention probabilities."""
    attention, lse = attention_probabilities(query, key, mask, is_causal, key_lengths, scale)
    out = p_laplacian_reference(
        attention, x_query, x_value, p, mu, residual=residual, self_loops=self_loops, homogeneous=homogeneous, eps=eps
    )
    return PLaplacianOutput(out, None if value is None else attention @ value, lse if return_lse else None)


def attention_probabilities(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    key_lengths: Tensor | None,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Softmax of the scaled and masked products ``[B, H, Lq, Lk]``, and its log-sum-exp ``[B, H, Lq]``.

    query, key, mask, is_causal, key_lengths, scale: as in :func:`vlmadapt.ops.p_laplacian_attention`, unchecked. A
    fully masked row is zero and its log-sum-exp minus infinity, both without gradient.
    """
    scale = max(query.shape[-1], 1) ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-1, -2) * scale
    queries, keys = scores.shape[-2:]
    attended = torch.ones_like(scores, dtype=torch.bool)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask
        attended = attended & (mask != -torch.inf)
    elif mask is not None:
        attended = attended & mask
    if is_causal:
        attended = attended & attended.new_ones(queries, keys).tril(keys - queries)
    if key_lengths is not None:
        attended = attended & (torch.arange(keys, device=key.device) < key_lengths.reshape(-1, 1, 1, 1))
    full = attended.any(-1, keepdim=True)
    scores = torch.where(full, scores.masked_fill(~attended, -torch.inf), 0)
    attention = torch.where(attended & full, scores.softmax(-1), 0)
    lse = scores.logsumexp(-1) if keys else scores.sum(-1)
    return attention, torch.where(full.squeeze(-1), lse, -torch.inf)


def _of_heads(value: Tensor | float, like: Tensor) -> Tensor:
    """A number or one value a head, as [1 or H, 1, 1]."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def _self_pairs(attention: Tensor) -> Tensor:
    """bool [Lq, Lk]: the queries are the last Lq of the Lk nodes."""
    queries, keys = attention.shape[-2:]
    node = torch.arange(queries, device=attention.device) + (keys - queries)
    return node.unsqueeze(-1) == torch.arange(keys, device=attention.device)
