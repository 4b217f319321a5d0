"""Operators with their own kernels: one folder an operator."""

from vlmadapt.ops.attention import attention_probabilities
from vlmadapt.ops.attention_column_sums import attention_column_sums, attention_column_sums_reference
from vlmadapt.ops.cache_retrieval import (
    PreparedCache,
    cache_retrieval,
    cache_retrieval_grid,
    cache_retrieval_multi_beta,
    cache_retrieval_reference,
)
from vlmadapt.ops.hetero_aggregate import Relation, hetero_aggregate, hetero_aggregate_reference
from vlmadapt.ops.library import build_info
from vlmadapt.ops.p_laplacian import (
    PLaplacianOutput,
    p_laplacian,
    p_laplacian_attention,
    p_laplacian_attention_reference,
    p_laplacian_reference,
)
from vlmadapt.ops.signed_cosine import (
    signed_cosine_aggregate,
    signed_cosine_degrees,
    signed_cosine_reference,
    signed_cosine_top_k,
)
from vlmadapt.ops.switch import use_reference

__all__ = [
    "PLaplacianOutput",
    "PreparedCache",
    "Relation",
    "attention_column_sums",
    "attention_column_sums_reference",
    "attention_probabilities",
    "build_info",
    "cache_retrieval",
    "cache_retrieval_grid",
    "cache_retrieval_multi_beta",
    "cache_retrieval_reference",
    "hetero_aggregate",
    "hetero_aggregate_reference",
    "p_laplacian",
    "p_laplacian_attention",
    "p_laplacian_attention_reference",
    "p_laplacian_reference",
    "signed_cosine_aggregate",
    "signed_cosine_degrees",
    "signed_cosine_reference",
    "signed_cosine_top_k",
    "use_reference",
]
