"""Operators with their own kernels: one file an operator."""

from vlmadapt.ops.cache_retrieval import (
    PreparedCache,
    cache_retrieval,
    cache_retrieval_grid,
    cache_retrieval_multi_beta,
    cache_retrieval_reference,
)
from vlmadapt.ops.library import build_info

__all__ = [
    "PreparedCache",
    "build_info",
    "cache_retrieval",
    "cache_retrieval_grid",
    "cache_retrieval_multi_beta",
    "cache_retrieval_reference",
]
