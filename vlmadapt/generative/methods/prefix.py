"""Prefix tuning (arXiv 2101.00190): trained keys and values before those of every attention, all else frozen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.generative.models.sites import merge_heads

SPREAD = 0.02  # of the initial keys and values


class Prefix(nn.Module):
    """``length`` trained keys and values for each of ``heads`` query heads of one attention, ``head_width`` wide.

    They are trained as they are, without the network that the paper draws them from (as in arXiv 2110.07602). They
    take part in the attention from the start, so that step 0 is not the frozen model.
    """

    def __init__(
        self, length: int, heads: int, head_width: int, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        super().__init__()
        shape = (heads, length, head_width)
        self.keys, self.values = (
            nn.Parameter(SPREAD * torch.randn(shape, generator=generator).to(dtype)) for _ in range(2)
        )

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: nn.Module,
        *,
        nodes: Tensor | None = None,
        mask: Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> tuple[Tensor, None]:
        """The context [B, Lq, H e] of attention to the prefix and to ``key``; arguments as in
        :class:`vlmadapt.generative.models.sites.AttentionAdapter`. Every query sees the whole prefix."""
        batch, heads, queries, _ = query.shape
        if is_causal:
            mask = torch.ones(queries, key.shape[2], dtype=torch.bool, device=query.device).tril()
        if mask is not None:
            seen = 1.0 if mask.dtype == torch.bool else 0.0
            mask = F.pad(mask, (self.keys.shape[1], 0), value=seen)
        group = heads // key.shape[1]
        key, value = (
            torch.cat([own.to(x.dtype).expand(batch, -1, -1, -1), x.repeat_interleave(group, 1)], 2)
            for own, x in ((self.keys, key), (self.values, value))
        )
        return merge_heads(F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)), None

    def combine(self, hidden: Tensor, messages: None) -> Tensor:
        """``hidden`` as it is."""
        return hidden

    def pack(self, value: Tensor, output: nn.Module) -> Tensor:
        """The values themselves: the prefix needs no place in a KV cache."""
        return value

    def forward(self, query: Tensor, key: Tensor, value: Tensor, output: nn.Module, **options: Any) -> Tensor:
        """The attention's adapted output [B, Lq, D]; arguments as in :meth:`attend`."""
        return output(self.attend(query, key, value, output, **options)[0])
