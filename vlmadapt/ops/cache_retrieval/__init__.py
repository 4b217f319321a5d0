"""Class scores from exponentiated similarities to a cache of keys with labels or values."""

from vlmadapt.ops.cache_retrieval.checks import PreparedCache
from vlmadapt.ops.cache_retrieval.function import cache_retrieval
from vlmadapt.ops.cache_retrieval.grid import cache_retrieval_grid, cache_retrieval_multi_beta
from vlmadapt.ops.cache_retrieval.reference import cache_retrieval_reference

__all__ = [
    "PreparedCache",
    "cache_retrieval",
    "cache_retrieval_grid",
    "cache_retrieval_multi_beta",
    "cache_retrieval_reference",
]
