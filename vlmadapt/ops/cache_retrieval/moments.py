"""Standardised similarities: keys moved so that a query's similarities have mean 0, and their deviation (ours)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vlmadapt.ops.cache_retrieval.reference import largest_noise

BLOCK = 4096  # keys whose similarities exist at a time


def standardized(queries: Tensor, keys: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys ``[n, D]`` less their mean, and the deviation ``[B]`` of each query's similarities to them.

    ``counts`` ``[n]`` says how many entries share a key, None one each. The deviation is 1 where the similarities do
    not vary, see :func:`largest_noise`. Differentiable.
    """
    with torch.autocast(queries.device.type, enabled=False):
        weights = keys.new_ones(len(keys)) if counts is None else counts.to(keys.dtype)
        weights = weights / weights.sum().clamp(min=1)
        centered = keys - weights @ keys
        # The mean is rounded, which moves all keys alike: more than the similarities may vary. So once more.
        centered = centered - weights @ centered
        if counts is not None:
            centered = with_entries(centered, counts)
        variance = _Variance.apply(queries, centered, weights)
        varies = variance > largest_noise(queries, keys, weights)
        return centered, torch.where(varies, variance, 1).sqrt()


def with_entries(keys: Tensor, counts: Tensor) -> Tensor:
    """``keys`` ``[n, D]``, zero where no entry shares one, and then without gradient.

    Kernels compute an affinity for every key and multiply it by its count: nothing times infinity would be NaN.
    """
    return torch.where((counts > 0).unsqueeze(-1), keys, 0)


class _Variance(torch.autograd.Function):
    """``sum_k weights[k] (queries[b] . centered[k])^2``, and its gradients, without a ``[B, n]`` matrix."""

    generate_vmap_rule = True

    @staticmethod
    def forward(queries: Tensor, centered: Tensor, weights: Tensor) -> Tensor:
        variance = queries.new_zeros(len(queries))
        for block, share in _blocks(centered, weights):
            variance = variance + (queries @ block.T).square() @ share
        return variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, centered, weights = ctx.saved_tensors
        with torch.autocast(queries.device.type, enabled=False):
            twice = 2 * grad.unsqueeze(-1)
            grad_queries, of_blocks = torch.zeros_like(queries), [centered[:0]]
            for block, share in _blocks(centered, weights):
                similarity = (queries @ block.T) * share
                grad_queries = grad_queries + similarity @ block
                of_blocks.append(similarity.T @ (twice * queries))
            return twice * grad_queries, torch.cat(of_blocks), None


def _blocks(centered: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(centered.split(BLOCK), weights.split(BLOCK), strict=True)
