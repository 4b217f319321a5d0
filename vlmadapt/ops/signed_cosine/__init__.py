"""The signed-cosine graph of two sets of features."""

from vlmadapt.ops.signed_cosine.function import signed_cosine_aggregate, signed_cosine_degrees, signed_cosine_top_k
from vlmadapt.ops.signed_cosine.reference import signed_cosine_reference

__all__ = [
    "signed_cosine_aggregate",
    "signed_cosine_degrees",
    "signed_cosine_reference",
    "signed_cosine_top_k",
]
