"""Aggregation over relations (ours) in plain PyTorch: ``[E, D]`` in memory, the truth of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vlmadapt.ops.hetero_aggregate.relation import Relation


def hetero_aggregate_reference(
    sources: Sequence[Tensor],
    relations: Sequence[Relation | Tensor],
    weights: Sequence[Tensor | None] | None = None,
    coefficients: Tensor | None = None,
    *,
    output: Literal["fused", "stacked"] = "fused",
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """The formula in plain PyTorch; arguments and result of :func:`hetero_aggregate`, ``[E, D]`` in memory."""
    parts = []
    for r, (source, relation) in enumerate(zip(sources, relations, strict=True)):
        if isinstance(relation, Tensor):
            part = relation @ source
            counts = torch.full((len(relation),), relation.shape[1], device=source.device)
        else:
            weight = None if weights is None else weights[r]
            messages = source[relation.columns.long()]
            if weight is not None:
                messages = messages * weight.to(source.dtype).unsqueeze(-1)
            part = source.new_zeros(relation.num_targets, source.shape[1])
            part = part.index_add(0, relation.target_index(), messages)
            counts = relation.row_counts()
        if reduction == "mean":
            part = part / counts.clamp(min=1).unsqueeze(-1)
        if coefficients is not None:
            part = part * coefficients[r].to(source.dtype)
        parts.append(part)
    stacked = torch.stack(parts)
    return stacked if output == "stacked" else stacked.sum(0)
