"""Column sums of attention: how much all queries together attend to a key, without the matrix.

    c[j] = sum_i A[i, j],   A = softmax(scale * query key^T + mask) along the keys

The degrees of the value nodes in the graph of attention (arXiv 2312.10613, equation 9).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.kinds import of_kinds
from vlmadapt.ops.attention import scale_of
from vlmadapt.ops.attention_column_sums import autograd  # noqa: F401  (registers gradients)
from vlmadapt.ops.attention_column_sums.checks import checked_arguments
from vlmadapt.ops.attention_column_sums.reference import attention_column_sums_reference
from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.switch import reference_in_use
from vlmadapt.ops.transforms import call


@of_kinds
def attention_column_sums(
    query: Tensor,
    key: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The sum over queries of the attention to each key, the probabilities never stored.

    Args:
        query: ``[B, H, Lq, e]`` float32, float64, bfloat16 or float16.
        key: ``[B, H, Lk, e]``, same dtype and device.
        mask, is_causal, key_lengths, scale: as in :func:`vlmadapt.ops.p_laplacian_attention`.

    Returns:
        ``[B, H, Lk]`` in float32 (float64 for float64): 0 for a key that every query's mask hides. They sum to the
        number of queries that see a key.

    Differentiable once in query and key.

    Raises:
        InputError: shapes, dtypes or devices disagree, or ``mask`` requires a gradient.
    """
    query, key, mask, key_lengths = checked_arguments(query, key, mask, key_lengths)
    scale = scale_of(scale, query.shape[-1])
    if reference_in_use():
        wide = accumulation_dtype(query.dtype)
        with torch.autocast(query.device.type, enabled=False):
            return attention_column_sums_reference(
                query.to(wide), key.to(wide), mask=mask, is_causal=is_causal, key_lengths=key_lengths, scale=scale
            )
    sums, _lse = call(
        "attention_column_sums", query.contiguous(), key.contiguous(), mask, key_lengths, scale, is_causal
    )
    return sums
