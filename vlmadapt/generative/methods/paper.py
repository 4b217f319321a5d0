"""The p-adapter as its paper has it (arXiv 2312.10613, equations 9 to 16).

For one head of one attention with probabilities ``A``, projected queries ``x_q`` and values ``x_v`` (equation 9):

    c_j   = sum_i A_ij, or 1 without degrees
    U     = p_laplacian(A, x_q, x_v / sqrt(c_j), p, mu)      in place of A x_v: equations 12 to 15, degree="paper"
    h     = W_o (heads of U side by side)
    out   = h + Up(ReLU(Down(h)))                            equation 16, a plain adapter

The query rows of ``A`` sum to 1, so that the degrees of equation 9's augmented graph are 1 for queries and ``c_j`` for
values: the form is :func:`vlmadapt.ops.p_laplacian_attention` on values over the root of their degree. Ours: one
such graph a head, at the head's width, before ``W_o``, which the paper leaves open; no degrees in a decoder, where
``c_j`` would depend on tokens that are not there yet. At p = 2 without pull and degrees ``U`` is the frozen attention.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.errors import InputError, shape_of
from vlmadapt.generative.methods.bottleneck import Bottleneck
from vlmadapt.generative.methods.p_config import PAdapterConfig
from vlmadapt.generative.methods.p_scalars import PScalars
from vlmadapt.generative.models.sites import merge_heads
from vlmadapt.ops import attention_probabilities, p_laplacian, p_laplacian_attention


class PaperAdapter(PScalars):
    """The adapter of one attention, in the paper's form.

    width: D, of the attention's output. heads, head_width: of its queries. decoder: whether queries come one by one.
    ``Down`` and ``Up`` are made in ``dtype``; ``p`` and ``theta`` never below float32.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        config: PAdapterConfig,
        *,
        decoder: bool,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        super().__init__(config, dtype, pulled=config.residual == "query")
        self.options: dict[str, Any] = {
            "degree": "none" if decoder else config.degree,
            "residual": "query" if self.theta is not None else "none",
        }
        self.plain = Bottleneck(width, max(1, width // config.reduction), dtype, generator)
        noise = None
        if config.query_nodes == "noise":  # of its own seed: a file that is loaded holds no noise
            noise = torch.randn(1, heads, 1, head_width, generator=torch.Generator().manual_seed(0)).to(dtype)
        self.noise: Tensor | None
        self.register_buffer("noise", noise, persistent=False)

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
        """What takes the place of the attention's context, [B, Lq, H e].

        query [B, H, Lq, e], key and value [B, G, Lk, e], head h of the queries reading head h // (H / G).
        nodes: features of the query nodes [B, H, Lq, e], where ``query`` was changed after its projection.
        mask, is_causal and scale are those of :func:`vlmadapt.ops.p_laplacian_attention`.
        dropout: of the edges (ours); the probabilities are stored then.
        Raises :class:`InputError` for shapes that do not go together.
        """
        batch, heads, queries, width = query.shape
        if heads % key.shape[1] or value.shape[-1] != width:
            raise InputError(
                f"query is {shape_of(query)} and value {shape_of(value)}: give the same width, and as many key-value "
                "heads as divide the query heads."
            )
        group = heads // key.shape[1]
        nodes = self._nodes(query if nodes is None else nodes)
        if group > 1 and queries == 1 and self.options["degree"] == "none":
            # One query of each head in the group as rows of one head: the cache is read as it lies.
            query, nodes = (x.unflatten(1, (-1, group)).flatten(2, 3) for x in (query, nodes))
            if mask is not None and mask.dim() == 4 and mask.shape[1] == heads:
                mask = mask.unflatten(1, (-1, group)).flatten(2, 3)
            is_causal = False
        elif group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        if dropout:
            wide = torch.promote_types(query.dtype, torch.float32)
            edges = attention_probabilities(query.to(wide), key.to(wide), mask, is_causal, None, scale)[0]
            edges, nodes, values = F.dropout(edges, dropout), nodes.to(wide), value.to(wide)
            messages = p_laplacian(edges, nodes, values, self.p(), self.mu(), **self.options).to(value.dtype)
        else:
            options = {**self.options, "mask": mask, "is_causal": is_causal, "scale": scale}
            messages = p_laplacian_attention(query, key, nodes, value, self.p(), self.mu(), **options).out
        return merge_heads(messages.reshape(batch, heads, queries, width)), None

    def _nodes(self, query: Tensor) -> Tensor:
        """Features of the query nodes [B, H, Lq, e]."""
        if self.config.query_nodes == "zeros":
            return torch.zeros_like(query)
        return query if self.noise is None else self.noise.to(query.dtype).expand(query.shape)

    def combine(self, hidden: Tensor, messages: None) -> Tensor:
        """``h + Up(ReLU(Down(h)))`` of ``h`` [B, Lq, D]."""
        return hidden + self.plain(hidden).to(hidden.dtype)

    def pack(self, value: Tensor, output: nn.Module) -> Tensor:
        """The values themselves: a KV cache stays the model's own."""
        return value

    def forward(self, query: Tensor, key: Tensor, value: Tensor, output: nn.Module, **options: Any) -> Tensor:
        """The attention's adapted output [B, Lq, D]; arguments as in :meth:`attend`."""
        context, messages = self.attend(query, key, value, output, **options)
        return self.combine(output(context), messages)
