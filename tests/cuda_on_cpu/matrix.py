"""Every kernel with its shapes, types, poison and float64 references, for whoever runs them: pytest, or a GPU."""

from __future__ import annotations

from . import (
    test_attention_column_sums,
    test_cache_retrieval,
    test_cache_retrieval_chunked,
    test_cache_retrieval_dense,
    test_cache_retrieval_few,
    test_hetero_aggregate,
    test_p_laplacian,
    test_p_laplacian_flash,
)
from .harness.case import Kernel

KERNELS: tuple[Kernel, ...] = (
    test_cache_retrieval.FORWARD,
    test_cache_retrieval.BACKWARD,
    test_cache_retrieval.GRID,
    test_cache_retrieval_chunked.FORWARD,
    test_cache_retrieval_chunked.BACKWARD,
    test_cache_retrieval_dense.FORWARD,
    test_cache_retrieval_dense.BACKWARD,
    test_cache_retrieval_few.FEW,
    test_hetero_aggregate.FORWARD,
    test_hetero_aggregate.BACKWARD,
    test_p_laplacian.FORWARD,
    test_p_laplacian.BACKWARD,
    test_p_laplacian_flash.FLASH,
    test_attention_column_sums.FORWARD,
    test_attention_column_sums.BACKWARD,
)
