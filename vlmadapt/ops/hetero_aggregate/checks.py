"""The arguments of :func:`vlmadapt.ops.hetero_aggregate`, checked and sorted into sparse and dense relations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.ops import library
from vlmadapt.ops.checks import FLOATS, check_matrix, check_same
from vlmadapt.ops.hetero_aggregate.relation import Relation


class Arguments(NamedTuple):
    """``sparse`` and ``dense`` name relations by number."""

    sources: list[Tensor]
    relations: list[Relation | Tensor]
    weights: list[Tensor | None]
    coefficients: Tensor | None
    sparse: list[int]
    dense: list[int]


def checked_arguments(
    sources: Sequence[Tensor],
    relations: Sequence[Relation | Tensor],
    weights: Sequence[Tensor | None] | None,
    coefficients: Tensor | None,
) -> Arguments:
    """Raises :class:`InputError` unless everything fits together; looks at no data."""
    count = len(relations)
    weights = [None] * count if weights is None else list(weights)
    if count == 0 or len(sources) != count or len(weights) != count:
        raise InputError(
            f"sources, relations and weights have {len(sources)}, {count} and {len(weights)} elements: give one "
            "of each a relation, and at least one relation."
        )
    library.require(sources[0].device)
    num_targets = _num_targets(relations[0])
    for r, (source, relation, weight) in enumerate(zip(sources, relations, weights, strict=True)):
        check_matrix(f"sources[{r}]", source)
        if r:
            check_same(f"sources[{r}]", source, "sources[0]", sources[0])
        if isinstance(relation, Tensor):
            _check_dense(r, source, relation, weight)
        else:
            _check_sparse(r, source, relation, weight)
        if _num_targets(relation) != num_targets:
            raise InputError(
                f"relations[{r}] has {_num_targets(relation)} targets but relations[0] has {num_targets}: "
                "all relations of a call must lead into the same targets."
            )
    device = sources[0].device
    if coefficients is not None and (
        coefficients.shape != (count,) or not coefficients.is_floating_point() or coefficients.device != device
    ):
        raise InputError(
            f"coefficients is {shape_of(coefficients)} on {coefficients.device} but must be one floating-point number "
            f"a relation, [{count}], on {device}."
        )
    dense = [r for r in range(count) if isinstance(relations[r], Tensor)]
    sparse = [r for r in range(count) if not isinstance(relations[r], Tensor)]
    return Arguments(list(sources), list(relations), weights, coefficients, sparse, dense)


def _num_targets(relation: Relation | Tensor) -> int:
    return relation.num_targets if isinstance(relation, Relation) else relation.shape[0]


def _check_dense(r: int, source: Tensor, relation: Tensor, weight: Tensor | None) -> None:
    check_matrix(f"relations[{r}]", relation)
    check_same(f"relations[{r}]", relation, f"sources[{r}]", source, width=False)
    if weight is not None:
        raise InputError(f"weights[{r}] must be None: the entries of the dense relations[{r}] are its weights.")
    _check_rows(r, source, relation.shape[1])


def _check_sparse(r: int, source: Tensor, relation: Relation, weight: Tensor | None) -> None:
    if relation.columns.device != source.device:
        raise InputError(
            f"relations[{r}] is on {relation.columns.device} but sources[{r}] is on {source.device}: "
            "build the relation from tensors on that device."
        )
    _check_rows(r, source, relation.num_sources)
    if weight is not None and (
        weight.shape != (relation.num_edges,) or weight.dtype not in FLOATS or weight.device != source.device
    ):
        raise InputError(
            f"weights[{r}] is {shape_of(weight)} on {weight.device} but must be one floating-point number an edge, "
            f"[{relation.num_edges}], on {source.device}."
        )


def _check_rows(r: int, source: Tensor, num_sources: int) -> None:
    if source.shape[0] != num_sources:
        raise InputError(
            f"sources[{r}] has {len(source)} rows but relations[{r}] has {num_sources} sources: give one row a source."
        )
