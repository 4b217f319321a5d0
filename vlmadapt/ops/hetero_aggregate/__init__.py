"""Weighted sums over the relations of a heterogeneous graph."""

from vlmadapt.ops.hetero_aggregate.function import hetero_aggregate
from vlmadapt.ops.hetero_aggregate.reference import hetero_aggregate_reference
from vlmadapt.ops.hetero_aggregate.relation import Relation

__all__ = [
    "Relation",
    "hetero_aggregate",
    "hetero_aggregate_reference",
]
