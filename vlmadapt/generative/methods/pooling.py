"""Fewer keys for the message passing: the released code's pooling, and one that keeps the rows' sums."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_attention(attention: Tensor, x_value: Tensor, how: str, keys: int) -> tuple[Tensor, Tensor]:
    """``attention`` [B, H, Lq, Lk] and ``x_value`` [B, H, Lk, d], with ``keys`` keys in place of Lk.

    ``"mean"``: both averaged over the (possibly overlapping) windows of adaptive average pooling, as the authors'
    released code does; rows then sum to about keys / Lk. ``"sum"`` (ours): Lk keys fall into ``keys`` disjoint groups
    in order, attention is summed and features are averaged; rows keep their sums, and with Lk <= keys nothing changes.
    """
    queries, present = attention.shape[2:]
    width = x_value.shape[-1]
    if how == "mean":
        pooled = F.adaptive_avg_pool2d(attention, (queries, keys))
        return pooled, F.adaptive_avg_pool2d(x_value, (keys, width))
    if present <= keys:
        return attention, x_value
    group = torch.arange(present, device=attention.device) * keys // present
    members = F.one_hot(group, keys).to(attention.dtype)
    return attention @ members, (members / members.sum(0)).T.to(x_value.dtype) @ x_value
