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

from vlmadapt.errors import InputError
from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.hetero_aggregate import autograd  # noqa: F401  (registers gradients)
from vlmadapt.ops.hetero_aggregate.checks import Arguments, checked_arguments
from vlmadapt.ops.hetero_aggregate.reference import hetero_aggregate_reference
from vlmadapt.ops.hetero_aggregate.relation import Relation
from vlmadapt.ops.switch import reference_in_use


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
    if output not in ("fused", "stacked") or reduction not in ("sum", "mean"):
        raise InputError(
            f"output is {output!r} and reduction is {reduction!r}: choose output 'fused' or 'stacked' and reduction "
            "'sum' or 'mean'."
        )
    given = checked_arguments(sources, relations, weights, coefficients)
    device, dtype = sources[0].device, sources[0].dtype
    if torch.is_autocast_enabled(device.type) and dtype != torch.float64:
        dtype = torch.float32
    with torch.autocast(device.type, enabled=False):
        if reference_in_use():
            return _plain(given, output, reduction).to(dtype)
        if given.dense:
            return _with_dense(given, output == "stacked", reduction == "mean").to(dtype)
        return _sparse(given, dtype, output == "stacked", reduction == "mean")


def _plain(given: Arguments, output: Literal["fused", "stacked"], reduction: Literal["sum", "mean"]) -> Tensor:
    """The reference, everything in the accumulation type."""
    dtype = accumulation_dtype(given.sources[0].dtype)
    sources = [source.to(dtype) for source in given.sources]
    relations = [relation.to(dtype) if isinstance(relation, Tensor) else relation for relation in given.relations]
    return hetero_aggregate_reference(
        sources, relations, given.weights, given.coefficients, output=output, reduction=reduction
    )


def _with_dense(given: Arguments, stacked: bool, mean: bool) -> Tensor:
    """Dense relations through BLAS, the others through the kernel; everything in the accumulation type."""
    dtype = accumulation_dtype(given.sources[0].dtype)
    parts: dict[int, Tensor] = {}
    total = None
    if given.sparse:
        total = _sparse(given, dtype, stacked, mean)
        if stacked:
            parts = dict(zip(given.sparse, total.unbind(0), strict=True))
    for r in given.dense:
        matrix, source = given.relations[r], given.sources[r].to(dtype)
        assert isinstance(matrix, Tensor)
        if given.coefficients is not None:
            source = source * given.coefficients[r].to(dtype)
        if mean:
            source = source / max(matrix.shape[1], 1)
        if stacked:
            parts[r] = matrix.to(dtype) @ source
        elif total is None:
            total = matrix.to(dtype) @ source
        else:
            total = torch.addmm(total, matrix.to(dtype), source)
    if stacked:
        return torch.stack([parts[r] for r in range(len(given.relations))])
    assert total is not None
    return total


def _sparse(given: Arguments, dtype: torch.dtype, stacked: bool, mean: bool) -> Tensor:
    """The relations that are not dense, in ``dtype``. A source that several of them read is passed once."""
    relations = [relation for relation in given.relations if isinstance(relation, Relation)]
    wide = accumulation_dtype(dtype)
    unique: list[Tensor] = []
    source_of: list[int] = []
    weights: list[Tensor] = []
    for r, relation in zip(given.sparse, relations, strict=True):
        known = [number for number, other in enumerate(unique) if other is given.sources[r]]
        source_of.append(known[0] if known else len(unique))
        if not known:
            unique.append(given.sources[r])
        weight = given.weights[r]
        weight = None if weight is None else weight.to(wide)
        if mean:
            weight = relation.shares(wide) if weight is None else weight * relation.shares(wide)
        weights.append(unique[0].new_empty(0, dtype=wide) if weight is None else weight.contiguous())
    if given.coefficients is None:
        coefficients = unique[0].new_ones(len(relations), dtype=wide)
    else:
        coefficients = given.coefficients.to(wide)
        if given.dense:
            coefficients = torch.stack([coefficients[r] for r in given.sparse])
    transposes: list[tuple[Tensor, Tensor, Tensor]] = []
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*unique, *weights, coefficients)):
        transposes = [relation.transpose() for relation in relations]
    index = torch.int32 if all(relation.columns.dtype == torch.int32 for relation in relations) else torch.int64
    return torch.ops.vlmadapt.hetero_aggregate(
        [source.to(dtype).contiguous() for source in unique],
        source_of,
        [relation.row_offsets for relation in relations],
        [relation.columns.to(index) for relation in relations],
        weights,
        coefficients.contiguous(),
        stacked,
        [offsets for offsets, _, _ in transposes],
        [targets.to(index) for _, targets, _ in transposes],
        [edges.to(index) for _, _, edges in transposes],
    )
