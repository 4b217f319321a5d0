"""What the operators on attention share: checks of queries, keys and masks, and the probabilities in plain PyTorch
(softmax attention, arXiv 1706.03762)."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.kinds import of_kinds
from vlmadapt.ops import library
from vlmadapt.ops.checks import FLOATS, accumulation_dtype, check_device, is_integer, refuse_forward_mode


def checked(tensors: dict[str, Tensor]) -> list[Tensor]:
    """All [B, H, rows, columns] of one dtype and device, else :class:`InputError`; float32 under autocast."""
    (first_name, first), *_ = tensors.items()
    library.require(first.device)
    if torch.is_autocast_enabled(first.device.type):
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        first = tensors[first_name]
    for name, tensor in tensors.items():
        refuse_forward_mode(name, tensor)
        if tensor.dim() != 4 or tensor.dtype not in FLOATS:
            raise InputError(
                f"{name} must be float32, float64, bfloat16 or float16 [batch, heads, rows, columns] but is "
                f"{shape_of(tensor)}: reshape or cast it."
            )
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise InputError(
                f"{name} is {shape_of(tensor)} on {tensor.device} but {first_name} is {shape_of(first)} on "
                f"{first.device}: give both the same dtype and device."
            )
    return list(tensors.values())


def check_shape(name: str, tensor: Tensor, shape: list[int]) -> None:
    """Raise :class:`InputError` unless the tensor has this shape, and for a dual."""
    refuse_forward_mode(name, tensor)
    if list(tensor.shape) != shape:
        raise InputError(f"{name} is {shape_of(tensor)} but must be {shape} to match the other arguments: reshape it.")


def checked_mask(
    mask: Tensor | None, key_lengths: Tensor | None, query: Tensor, keys: int
) -> tuple[Tensor | None, Tensor | None]:
    """The mask expanded to [B, H, Lq, Lk] without a copy, bool or of the accumulation type, and the lengths as int64;
    :class:`InputError` where they do not fit the queries and keys."""
    if mask is not None:
        check_device("mask", mask, "query", query)
        mask = _expanded(mask, accumulation_dtype(query.dtype), (*query.shape[:3], keys))
    if key_lengths is not None:
        check_device("key_lengths", key_lengths, "query", query)
        batch = query.shape[0]
        if key_lengths.shape != (batch,) or not is_integer(key_lengths):
            raise InputError(
                f"key_lengths is {shape_of(key_lengths)} but must be integers [{batch}]: one for each sample."
            )
        key_lengths = key_lengths.to(torch.int64).contiguous()
    return mask, key_lengths


def scale_of(scale: float | None, width: int) -> float:
    """The factor of the products: ``width ** -0.5`` where none is given."""
    return max(width, 1) ** -0.5 if scale is None else float(scale)


def _expanded(mask: Tensor, wide: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if mask.requires_grad:
        raise InputError("mask requires a gradient but is not differentiable here: pass mask.detach().")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise InputError(f"mask is {shape_of(mask)}: pass bool (True: attend) or float (added to the products).")
    try:
        return (mask if mask.dtype == torch.bool else mask.to(wide)).expand(shape)
    except RuntimeError as error:
        raise InputError(f"mask is {shape_of(mask)} but must broadcast to {list(shape)}: reshape it.") from error


@of_kinds
def attention_probabilities(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    key_lengths: Tensor | None,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Softmax of the scaled and masked products ``[B, H, Lq, Lk]``, and its log-sum-exp ``[B, H, Lq]``.

    query, key, mask, is_causal, key_lengths, scale: as in :func:`vlmadapt.ops.p_laplacian_attention`, unchecked. A
    fully masked row is zero and its log-sum-exp minus infinity, both without gradient.
    """
    scale = max(query.shape[-1], 1) ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-1, -2) * scale
    queries, keys = scores.shape[-2:]
    attended = torch.ones_like(scores, dtype=torch.bool)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask
        attended = attended & (mask != -torch.inf)
    elif mask is not None:
        attended = attended & mask
    if is_causal:
        attended = attended & attended.new_ones(queries, keys).tril(keys - queries)
    if key_lengths is not None:
        attended = attended & (torch.arange(keys, device=key.device) < key_lengths.reshape(-1, 1, 1, 1))
    full = attended.any(-1, keepdim=True)
    scores = torch.where(full, scores.masked_fill(~attended, -torch.inf), 0)
    attention = torch.where(attended & full, scores.softmax(-1), 0)
    lse = scores.logsumexp(-1) if keys else scores.sum(-1)
    return attention, torch.where(full.squeeze(-1), lse, -torch.inf)
