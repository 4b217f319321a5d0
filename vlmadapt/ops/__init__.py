"""Operators with their own kernels: one file an operator."""

from vlmadapt.ops.cache_retrieval import (
    PreparedCache,
    cache_retrieval,
    cache_retrieval_grid,
    cache_retrieval_reference,
)

__all__ = ["PreparedCache", "cache_retrieval", "cache_retrieval_grid", "cache_retrieval_reference"]
