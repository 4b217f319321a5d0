"""Aggregation over the relations of a heterogeneous graph, many relations into one target type at once.

    out[i]    = sum over relations r of c_r * sum over the edges (i, j) of r of w_r[i, j] * sources_r[j]      "fused"
    out[r, i] =                         c_r * sum over the edges (i, j) of r of w_r[i, j] * sources_r[j]      "stacked"

The message passing of HeGraphAdapter (arXiv 2410.07854) needs it for signed weights. The operator is ours;
:func:`hetero_aggregate_reference` states it in plain PyTorch and is the truth of the tests.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vlmadapt.errors import InputError
from vlmadapt.kinds import of_kinds
from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.hetero_aggregate import autograd  # noqa: F401  (registers gradients)
from vlmadapt.ops.hetero_aggregate.checks import Arguments, checked_arguments
from vlmadapt.ops.hetero_aggregate.reference import hetero_aggregate_reference
from vlmadapt.ops.hetero_aggregate.relation import Relation
from vlmadapt.ops.hetero_aggregate.route import Route, dense_relations
from vlmadapt.ops.switch import reference_in_use
from vlmadapt.ops.transforms import call, wants_gradient


@of_kinds
def hetero_aggregate(
    sources: Sequence[Tensor],
    relations: Sequence[Relation | Tensor],
    weights: Sequence[Tensor | None] | None = None,
    coefficients: Tensor | None = None,
    *,
    output: Literal["fused", "stacked"] = "fused",
    reduction: Literal["sum", "mean"] = "sum",
    route: Route = "auto",
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
        route: how a :class:`Relation` is summed: ``"sparse"`` by the kernel, an edge at a time; ``"dense"`` as a
            matrix ``[n_t, n_s]``, by torch's products; ``"auto"`` takes the second where the relation has so many of
            all pairs that it is the faster, and the matrices of the call take 256 MB at most.

    Returns:
        ``[n_t, D]``, or stacked ``[R, n_t, D]``, in the sources' dtype; sums are kept in float32 (float64 for
        float64). A target without edges is zero.

    Differentiable once in every source, weight, dense relation and in coefficients. A NaN in a source row or a weight
    gives NaN in the targets that read it, and as a matrix in others too. Under autocast the computation is float32.

    Raises:
        InputError: numbers of relations, shapes, dtypes or devices disagree, an option is unknown, or the dense route
            is asked for where it takes more than 256 MB.
    """
    if output not in ("fused", "stacked") or reduction not in ("sum", "mean"):
        raise InputError(
            f"output is {output!r} and reduction is {reduction!r}: choose output 'fused' or 'stacked' and reduction "
            "'sum' or 'mean'."
        )
    if route not in ("auto", "sparse", "dense"):
        raise InputError(f"route is {route!r}: choose 'auto', 'sparse' or 'dense'.")
    given = checked_arguments(sources, relations, weights, coefficients)
    device, dtype = sources[0].device, sources[0].dtype
    if torch.is_autocast_enabled(device.type) and dtype != torch.float64:
        dtype = torch.float32
    with torch.autocast(device.type, enabled=False):
        if reference_in_use():
            return _plain(given, output, reduction).to(dtype)
        stacked, mean = output == "stacked", reduction == "mean"
        given = _routed(given, dense_relations(given, stacked, route))
        if given.dense:
            return _with_dense(given, stacked, mean).to(dtype)
        return _sparse(given, dtype, stacked, mean)


def _plain(given: Arguments, output: Literal["fused", "stacked"], reduction: Literal["sum", "mean"]) -> Tensor:
    """The reference, everything in the accumulation type."""
    dtype = accumulation_dtype(given.sources[0].dtype)
    sources = [source.to(dtype) for source in given.sources]
    relations = [relation.to(dtype) if isinstance(relation, Tensor) else relation for relation in given.relations]
    return hetero_aggregate_reference(
        sources, relations, given.weights, given.coefficients, output=output, reduction=reduction
    )


def _routed(given: Arguments, chosen: list[int]) -> Arguments:
    """The relations chosen are among the dense ones."""
    sparse = [r for r in given.sparse if r not in chosen]
    return given._replace(sparse=sparse, dense=sorted([*given.dense, *chosen]))


def _with_dense(given: Arguments, stacked: bool, mean: bool) -> Tensor:
    """Dense relations through torch's products, the others through the kernel; all in the accumulation type."""
    dtype = accumulation_dtype(given.sources[0].dtype)
    total = _sparse(given, dtype, stacked, mean) if given.sparse else None
    if stacked:
        parts = dict(zip(given.sparse, () if total is None else total.unbind(0), strict=True))
        for r in given.dense:
            parts[r] = _matrix(given, r, dtype, mean) @ _scaled(given, r, given.sources[r].to(dtype), mean)
        return torch.stack([parts[r] for r in range(len(given.relations))])
    for first, readers in _by_source(given):
        source, matrices = given.sources[first].to(dtype), [_matrix(given, r, dtype, mean) for r in readers]
        if len(readers) == 1:  # a source is the smaller factor, mostly
            matrix, source = matrices[0], _scaled(given, first, source, mean)
        else:
            scaled = [_scaled(given, r, matrix, mean) for r, matrix in zip(readers, matrices, strict=True)]
            matrix = functools.reduce(torch.add, scaled)
        total = matrix @ source if total is None else torch.addmm(total, matrix, source)
    assert total is not None
    return total


def _by_source(given: Arguments) -> list[tuple[int, list[int]]]:
    """Dense relations that read one source, after the first of them."""
    groups: list[tuple[int, list[int]]] = []
    for r in given.dense:
        known = [readers for first, readers in groups if given.sources[first] is given.sources[r]]
        if known:
            known[0].append(r)
        else:
            groups.append((r, [r]))
    return groups


def _matrix(given: Arguments, r: int, dtype: torch.dtype, mean: bool) -> Tensor:
    relation = given.relations[r]
    return relation.to(dtype) if isinstance(relation, Tensor) else relation.matrix(given.weights[r], dtype, mean)


def _scaled(given: Arguments, r: int, factor: Tensor, mean: bool) -> Tensor:
    """One factor of a dense relation's product times what the relation is multiplied by."""
    relation = given.relations[r]
    if given.coefficients is not None:
        factor = factor * given.coefficients[r].to(factor.dtype)
    if mean and isinstance(relation, Tensor):
        factor = factor / max(relation.shape[1], 1)
    return factor


def _sparse(given: Arguments, dtype: torch.dtype, stacked: bool, mean: bool) -> Tensor:
    """The relations that are not dense, in ``dtype``. A source that several of them read is passed once."""
    relations = [relation for r in given.sparse if isinstance(relation := given.relations[r], Relation)]
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
    if wants_gradient(*unique, *weights, coefficients):
        transposes = [relation.transpose() for relation in relations]
    index = torch.int32 if all(relation.columns.dtype == torch.int32 for relation in relations) else torch.int64
    return call(
        "hetero_aggregate",
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
