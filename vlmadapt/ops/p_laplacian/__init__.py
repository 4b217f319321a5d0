"""p-Laplacian message passing over the graph of attention."""

from vlmadapt.ops.p_laplacian.function import p_laplacian, p_laplacian_attention
from vlmadapt.ops.p_laplacian.reference import (
    PLaplacianOutput,
    p_laplacian_attention_reference,
    p_laplacian_reference,
)

__all__ = [
    "PLaplacianOutput",
    "p_laplacian",
    "p_laplacian_attention",
    "p_laplacian_attention_reference",
    "p_laplacian_reference",
]
