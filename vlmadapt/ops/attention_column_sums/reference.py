"""Column sums of attention in plain PyTorch, through the stored probabilities: the truth of the tests.

The degrees of arXiv 2312.10613, equation 9.
"""

from __future__ import annotations

from torch import Tensor

from vlmadapt.ops.attention import attention_probabilities


def attention_column_sums_reference(
    query: Tensor,
    key: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """``[B, H, Lk]``, arguments and result as of :func:`vlmadapt.ops.attention_column_sums`."""
    return attention_probabilities(query, key, mask, is_causal, key_lengths, scale)[0].sum(-2)
