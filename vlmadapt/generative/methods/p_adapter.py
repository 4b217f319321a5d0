"""p-adapter (arXiv 2312.10613): p-Laplacian message passing on the attention graphs of a frozen generative model.

For one attention with probabilities ``A``, context ``ctx = A v`` and frozen output projection ``W_o``:

    h   = W_o ctx
    x_q = Down(W_o q), x_v = Down(W_o v)                    Down: D -> D/8, trained, split into heads
    out = p_laplacian(A, x_q, x_v, p, mu)                   vlmadapt.ops.p_laplacian_attention; A is never stored
    h  <- h + Up(GELU(Gate(h)) * out)                       Gate: D -> D/8, Up: D/8 -> D, trained

``p`` is one trained number a module, ``mu = 2 mu0 + mu0 tanh(theta)`` with a trained ``theta``. Placement, gate, shared
``W_o`` and ``mu`` are those of the authors' released code. Ours: ``Up`` starts at zero, so that step 0 equals the
frozen model; ``p`` kept in its range by a smooth map; no pooling of keys; the same output with and without a KV cache.
This is the released and the gated form; the paper's is :mod:`vlmadapt.generative.methods.paper`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.errors import InputError, shape_of
from vlmadapt.generative.methods.attached import Attached
from vlmadapt.generative.methods.bottleneck import Bottleneck, put_behind
from vlmadapt.generative.methods.p_config import PAdapterConfig
from vlmadapt.generative.methods.p_scalars import PScalars
from vlmadapt.generative.methods.paper import PaperAdapter
from vlmadapt.generative.methods.pooling import pool_attention
from vlmadapt.generative.models.load import find_sites
from vlmadapt.generative.models.sites import AttentionKind, AttentionSite, Sites, merge_heads, split_heads
from vlmadapt.generative.models.wrappers import adaptable
from vlmadapt.ops import attention_probabilities, p_laplacian, p_laplacian_attention
from vlmadapt.training.layers import empty_linear, set_uniform

METHOD = "p-adapter"


class PAdapter(PScalars):
    """The adapter of one attention, in the gated or the released form.

    width: D, of the attention's output. heads: H. kind: whether keys come from the same sequence as queries.
    value_heads: G, of keys and values, each read by H / G query heads in a row; None: H.
    ``Down``, ``Gate`` and ``Up`` are made in ``dtype``; ``p`` and ``theta`` never below float32.

    Raises :class:`InputError` unless ``D / reduction`` is a multiple of H.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kind: AttentionKind,
        config: PAdapterConfig | Mapping[str, Any] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        value_heads: int | None = None,
    ):
        config = PAdapterConfig.make(config)
        super().__init__(config, dtype)
        bottleneck = width // config.reduction
        if bottleneck == 0 or bottleneck % heads:
            raise InputError(
                f"PAdapterConfig.reduction is {config.reduction}, which takes the width {width} to {bottleneck}, no "
                f"multiple of its {heads} heads: pass one such as {math.gcd(width // heads, config.reduction)}."
            )
        self.heads = heads
        self.value_heads = value_heads or heads
        self.kind = kind
        self.down = empty_linear(width, bottleneck, dtype)
        self.gate = empty_linear(width, bottleneck, dtype)
        self.up = empty_linear(bottleneck, width, dtype)
        self.reset(torch.Generator().manual_seed(0) if generator is None else generator)

    def reset(self, generator: torch.Generator) -> None:
        """``Up`` zero: an adapter that changes nothing yet."""
        set_uniform(self.down, generator)
        set_uniform(self.gate, generator)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def features(self, x: Tensor, output: nn.Module) -> Tensor:
        """Node features ``Down(W_o x)`` [B, H, L, d] of projected queries or values ``x`` [B, H or G, L, e]."""
        joined = merge_heads(self._of_each(x))
        if isinstance(output, nn.Linear) and joined.shape[0] * joined.shape[1] > self.down.out_features:
            # Two linear maps in a row are one: D^2 / 8 products a token in place of D^2, and no W_o x to keep.
            weight = self.down.weight @ output.weight
            bias = self.down.bias if output.bias is None else self.down(output.bias)
            return split_heads(F.linear(joined, weight, bias), self.heads)
        return split_heads(self.down(output(joined)), self.heads)

    def _of_each(self, x: Tensor) -> Tensor:
        """[B, G, L, e] -> [B, H, L, e]: for each query head what it reads."""
        return x if x.shape[1] == self.heads else x.repeat_interleave(self.heads // self.value_heads, 1)

    def pack(self, value: Tensor, output: nn.Module) -> Tensor:
        """Values [B, G, L, e], their node features beside them [B, G, L, e + d H / G]: what goes into a KV cache."""
        beside = self.features(value, output).unflatten(1, (self.value_heads, -1)).transpose(2, 3).flatten(3)
        return torch.cat([value, beside.to(value.dtype)], -1)

    def _unpacked(self, value: Tensor, width: int, output: nn.Module) -> tuple[Tensor, Tensor]:
        """Values ``width`` wide, and their node features [B, H, L, d]: beside them, or computed.

        Raises :class:`InputError` for values that are neither ``width`` wide nor packed."""
        group = self.heads // self.value_heads
        packed = width + group * (self.down.out_features // self.heads)
        if value.shape[1] != self.value_heads or value.shape[-1] not in (width, packed):
            raise InputError(
                f"value is {shape_of(value)} but must be [B, {self.value_heads}, Lk, {width}], or {packed} wide as "
                "pack() makes it: see AttentionSite.value_heads."
            )
        if value.shape[-1] == width:
            return value, self.features(value, output)
        return value[..., :width], value[..., width:].unflatten(-1, (group, -1)).transpose(2, 3).flatten(1, 2)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: nn.Module,
        *,
        mask: Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """The attention context [B, Lq, D] and the messages [B, Lq, D / reduction].

        query [B, H, Lq, e], key [B, G, Lk, e], value [B, G, Lk, e] or as :meth:`pack` gives it; output: the frozen
        ``W_o``. mask, is_causal and scale are those of :func:`vlmadapt.ops.p_laplacian_attention`.
        dropout: of the attention probabilities, in the context only, as in the released code.
        Raises :class:`InputError` for shapes that do not go together.
        """
        value, x_value = self._unpacked(value, query.shape[-1], output)
        key, value = self._of_each(key), self._of_each(value)
        options = self._options()
        first_query = x_value.shape[2] - query.shape[2]
        x_query = x_value[:, :, first_query:] if options["homogeneous"] else self.features(query, output)
        if self.kind == "cross" and self.config.key_pooling != "none":
            wide = torch.promote_types(query.dtype, torch.float32)
            attention = attention_probabilities(query.to(wide), key.to(wide), mask, is_causal, None, scale)[0]
            attention = attention.to(value.dtype)
            fewer, x_value = pool_attention(attention, x_value, self.config.key_pooling, self.config.pooled_keys)
            messages = p_laplacian(fewer, x_query, x_value, self.p(), self.mu(), **options)
            return merge_heads(F.dropout(attention, dropout) @ value), merge_heads(messages)
        options |= {"value": None if dropout else value, "mask": mask, "is_causal": is_causal, "scale": scale}
        messages, context, _ = p_laplacian_attention(query, key, x_query, x_value, self.p(), self.mu(), **options)
        if context is None:
            context = F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal, scale=scale)
        return merge_heads(context), merge_heads(messages)

    def _options(self) -> dict[str, Any]:
        """The switches, as the operator takes them."""
        config = self.config
        pulled = config.residual == "query" or (config.residual == "self-only" and self.kind == "self")
        return {
            "residual": "query" if pulled else "none",
            "self_loops": config.self_loops,
            "homogeneous": self.kind == "self" and config.self_attention == "homogeneous",
            "eps": config.eps,
        }

    def combine(self, hidden: Tensor, messages: Tensor) -> Tensor:
        """``h + Up(GELU(Gate(h)) * messages)`` of ``h = W_o ctx`` [B, Lq, D]."""
        return hidden + self.up(F.gelu(self.gate(hidden)) * messages).to(hidden.dtype)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, output: nn.Module, **options: Any) -> Tensor:
        """The attention's adapted output [B, Lq, D]; arguments as in :meth:`attend`."""
        context, messages = self.attend(query, key, value, output, **options)
        return self.combine(output(context), messages)


def attach_p_adapter(
    model: nn.Module,
    config: PAdapterConfig | Mapping[str, Any] | None = None,
    *,
    sites: Sites | None = None,
    method: str = METHOD,
    seed: int = 0,
) -> Attached:
    """Put a p-adapter on the text attentions of ``model``, in place; everything else is frozen.

    model: of a family that is known (``docs/p_adapter.md``), or any model whose ``sites`` the caller names.
    seed: of the initial weights; the global random state is not drawn from.

    At step 0 the model computes what it computed before, unless ``start="paper"`` or ``degree="paper"`` is chosen.
    Raises :class:`InputError` for an unknown architecture, a configuration that fits none of its attentions, or a model
    that already carries a method or whose weights are quantised.
    """
    model, config = adaptable(model), PAdapterConfig.make(config)
    if config.tower and sites is not None:
        raise InputError("PAdapterConfig.tower is yes beside sites=, which say what is adapted: leave it out.")
    found = (find_sites(model, config.tower) if sites is None else sites).under(config.only)
    attentions = [site for site in found.attentions if config.attentions in ("both", site.kind)]
    if not attentions:
        raise InputError(
            f"model has no {config.attentions} attention under {list(config.only) or 'any name'}: "
            "change PAdapterConfig.attentions or PAdapterConfig.only."
        )
    natural = "gated" if all(site.packs for site in attentions) else "paper"
    config = config.of_form(natural)
    if natural == "paper" != config.form:
        raise InputError(
            f"PAdapterConfig.form is {config.form!r}, which keeps node features beside the values in the cache, where "
            f"{type(model).__name__} has its own: use form='paper'."
        )
    generator = torch.Generator().manual_seed(seed)
    attached = Attached(model, method, config)
    with attached.building():
        for site in attentions:
            adapter = _adapter_of(site, config, generator)
            site.attach(attached, "p_adapter", adapter.to(site.output.weight.device))
        for ffn in found.feed_forwards if config.ffn else ():
            adapter = Bottleneck(ffn.width, max(1, ffn.width // config.reduction), ffn.weight.dtype, generator)
            adapter = adapter.to(ffn.weight.device)
            if config.form == "paper":
                put_behind(attached, ffn.place, ffn.result, "ffn_adapter", adapter)
            else:  # Beside the layer, as in the released code.
                ffn.attach(attached, "ffn_adapter", adapter)
    return attached


def _adapter_of(site: AttentionSite, config: PAdapterConfig, generator: torch.Generator) -> nn.Module:
    output = site.output
    dtype, width = output.weight.dtype, output.out_features
    if config.form != "paper":
        options: dict[str, Any] = {"dtype": dtype, "generator": generator, "value_heads": site.value_heads}
        return PAdapter(width, site.heads, site.kind, config, **options)
    head_width = output.in_features // site.heads
    return PaperAdapter(width, site.heads, head_width, config, decoder=site.decoder, dtype=dtype, generator=generator)
