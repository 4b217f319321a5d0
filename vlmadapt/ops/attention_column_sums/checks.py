"""The arguments of the column sums of attention, checked."""

from __future__ import annotations

from torch import Tensor

from vlmadapt.ops.attention import check_shape, checked, checked_mask


def checked_arguments(
    query: Tensor, key: Tensor, mask: Tensor | None, key_lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """All four as the operator takes them, else :class:`InputError`; float32 under autocast."""
    query, key = checked({"query": query, "key": key})
    check_shape("key", key, [*query.shape[:2], key.shape[2], query.shape[3]])
    return query, key, *checked_mask(mask, key_lengths, query, key.shape[2])
