"""Aggregation over the relations of a heterogeneous graph, many relations into one target type at once.

    out[i]    = sum over relations r of c_r * sum over the edges (i, j) of r of w_r[i, j] * sources_r[j]      "fused"
    out[r, i] =                         c_r * sum over the edges (i, j) of r of w_r[i, j] * sources_r[j]      "stacked"

The message passing of HeGraphAdapter (arXiv 2410.07854) needs it for signed weights. The operator is ours;
:func:`hetero_aggregate_reference` states it in plain PyTorch and is the truth of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vlmadapt.ops.relation import Relation

__all__ = ["Relation", "hetero_aggregate", "hetero_aggregate_reference"]


def hetero_aggregate(
    sources: Sequence[Tensor],
    relations: Sequence[Relation | Tensor],
    weights: Sequence[Tensor | None] | None = None,
    coefficients: Tensor | None = None,
    *,
    output: Literal["fused", "stacked"] = "fused",
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Weighted sums of source rows over several relations into one target type, in one call.

    Args:
        sources: R matrices ``[n_s(r), D]``, float32, float64, bfloat16 or float16, one dtype and device; the same
            tensor may appear several times.
        relations: R relations with the same number of targets: a :class:`Relation`, or a matrix ``[n_t, n_s(r)]``
            whose entries are the weights of a dense relation, which goes to BLAS.
        weights: R vectors ``[E_r]`` of any sign, in the relation's edge order, or None for ones; None for a dense
            relation.
        coefficients: ``[R]``, or None for ones.
        output: ``"fused"`` adds the relations up, ``"stacked"`` keeps them apart.
        reduction: ``"sum"``, or ``"mean"``: divided by the number of edges of the target in the relation (the number
            of columns, if dense).

    Returns:
        ``[n_t, D]``, or stacked ``[R, n_t, D]``, in the sources' dtype; sums are kept in float32 (float64 for
        float64). A target without edges is zero.

    Differentiable once in every source, weight, dense relation and in coefficients. A NaN in a source row or a weight
    gives NaN in the targets that read it. Under autocast the computation is float32.

    Raises:
        InputError: numbers of relations, shapes, dtypes or devices disagree, or an option is unknown.
    """
    return hetero_aggregate_reference(sources, relations, weights, coefficients, output=output, reduction=reduction)


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
