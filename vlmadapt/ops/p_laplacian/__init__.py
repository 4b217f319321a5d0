"""p-Laplacian message passing over the graph of attention."""

from vlmadapt.ops.p_laplacian.function import p_laplacian, p_laplacian_attention
from vlmadapt.ops.p_laplacian.reference import (
    PLaplacianOutput,
    attention_probabilities,
    p_laplacian_attention_reference,
    p_laplacian_reference,
)

__all__ = [
    "PLaplacianOutput",
    "attention_probabilities",
    "p_laplacian",
    "p_laplacian_attention",
    "p_laplacian_attention_reference",
    "p_laplacian_reference",
]
