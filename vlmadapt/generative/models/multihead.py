"""``nn.MultiheadAttention`` computed step by step, with room for a KV cache and for an attached adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.doors import Door
from vlmadapt.errors import InputError
from vlmadapt.generative.models.sites import Attaching, AttentionKind, AttentionSite, Sites, attention_adapter

CACHE = "kv_cache"  # attribute of an attention that carries its state during cached decoding

MULTIHEAD = Door(
    "torch",
    "nn.MultiheadAttention.forward",
    (
        "query",
        "key",
        "value",
        "key_padding_mask",
        "need_weights",
        "attn_mask",
        "average_attn_weights",
        "is_causal",
    ),
)


class CacheSlot:
    """The place of one attention in a ``transformers`` cache.

    grows: self-attention, whose keys grow call by call; cross-attention computes its keys once.
    """

    def __init__(self, cache: Any, layer: int, grows: bool):
        self.cache = cache
        self.layer = layer
        self.grows = grows

    def keys_and_values(self, project: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """[B, H, Lk, e] of all calls so far; ``project`` computes those of this call."""
        if not self.grows and self.cache.get_seq_length(self.layer):
            stored = self.cache.layers[self.layer]
            return stored.keys, stored.values
        return self.cache.update(*project(), self.layer)


@lru_cache(maxsize=1)
def multihead_forward() -> Callable[..., Any]:
    """The method that stands in for ``nn.MultiheadAttention.forward``, always the same object.

    Raises :class:`IncompatibleLibrary` where the installed torch's takes other arguments than those known.
    """
    return MULTIHEAD.replace(nn.MultiheadAttention.forward, _forward)


def _forward(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What ``module(query, key, value, ...)`` returns, through its cache slot and adapter where it has them.

    ``is_causal`` is a hint only: as in torch, ``attn_mask`` decides. Weights are computed apart when asked for.
    Raises :class:`InputError` for nested tensors.
    """
    if query.is_nested:
        raise InputError("query is a nested tensor: set use_nested_tensor = False on the nn.TransformerEncoder.")
    inputs = [_batched(x, module.batch_first) for x in (query, key, value)]
    slot: CacheSlot | None = module.__dict__.get(CACHE)
    adapter = attention_adapter(module)
    projections = _projections(module)

    def keys_and_values() -> tuple[Tensor, Tensor]:
        keys, values = (_heads(module, *projections[i], inputs[i]) for i in (1, 2))
        return keys, values if slot is None or adapter is None else adapter.pack(values, module.out_proj)

    queries = _heads(module, *projections[0], inputs[0])
    keys, values = keys_and_values() if slot is None else slot.keys_and_values(keys_and_values)
    mask = _mask(module, attn_mask, key_padding_mask, queries)
    dropout = module.dropout if module.training else 0.0
    if adapter is None:
        context = F.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        result = module.out_proj(context.transpose(1, 2).flatten(2))
    else:
        result = adapter(queries, keys, values, module.out_proj, mask=mask, dropout=dropout)
    weights = _weights(queries, keys, mask, average_attn_weights) if need_weights else None
    if query.dim() == 2:
        return result.squeeze(0), None if weights is None else weights.squeeze(0)
    return result if module.batch_first else result.transpose(0, 1), weights


def unsupported(module: nn.MultiheadAttention) -> str | None:
    """The option of ``module`` that :func:`multihead_forward` does not know; ``None`` where there is none."""
    if module.bias_k is not None:
        return "add_bias_kv"
    return "add_zero_attn" if module.add_zero_attn else None


def multihead_site(name: str, module: nn.MultiheadAttention, kind: AttentionKind) -> AttentionSite:
    """The site of one attention: ``module`` is the model's ``name``, ``kind`` is ``"self"`` or ``"cross"``.

    Raises :class:`InputError` for add_bias_kv and add_zero_attn.
    """
    option = unsupported(module)
    if option is not None:
        raise InputError(f"{name} was made with {option}, which the p-adapter does not know: leave it out of sites.")
    # Its output projection is used without being called: the result is the module's own.
    forwards = [(module, multihead_forward())]
    return AttentionSite(name, kind, module, module.num_heads, module.out_proj, forwards, _refuse_fast_path, module)


def multihead_sites(model: nn.Module, cross: Sequence[str] = ()) -> Sites:
    """A site for every ``nn.MultiheadAttention`` of ``model``.

    cross: last parts of the names of those that attend to another sequence, such as ``"multihead_attn"``; the others
    are self-attentions.
    """
    return Sites(
        [
            multihead_site(name, module, "cross" if name.rpartition(".")[2] in cross else "self")
            for name, module in model.named_modules()
            if isinstance(module, nn.MultiheadAttention)
        ]
    )


def _refuse_fast_path(attached: Attaching, owner: nn.Module) -> None:
    """nn.TransformerEncoderLayer's fused evaluation does not call its attention, unless that has a hook."""
    handle = owner.register_forward_pre_hook(_nothing)
    attached.on_detach(handle.remove)


def _nothing(module: nn.Module, inputs: Any) -> None:
    pass


def _batched(x: Tensor, batch_first: bool) -> Tensor:
    """[B, L, D]."""
    if x.dim() == 2:
        return x.unsqueeze(0)
    return x if batch_first else x.transpose(0, 1)


def _projections(module: nn.MultiheadAttention) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of the projections of queries, keys and values."""
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    return list(zip(weights, biases, strict=True))


def _heads(module: nn.MultiheadAttention, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return F.linear(x, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)


def _mask(
    module: nn.MultiheadAttention, attn_mask: Tensor | None, padding: Tensor | None, queries: Tensor
) -> Tensor | None:
    """One mask that broadcasts to [B, H, Lq, Lk]: bool (True: attend) or added to the products."""
    masks = []
    batch = len(queries)
    if attn_mask is not None:
        if attn_mask.dim() == 3:
            attn_mask = attn_mask.unflatten(0, (batch, module.num_heads))
        masks.append(attn_mask)
    if padding is not None:
        masks.append(padding.reshape(batch, 1, 1, -1))
    if not masks:
        return None
    # torch's bool masks say what is left out.
    if all(mask.dtype == torch.bool for mask in masks):
        return ~(masks[0] | masks[-1])
    added = [_additive(mask, queries.dtype) for mask in masks]
    return added[0] if len(added) == 1 else added[0] + added[1]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, average: bool) -> Tensor:
    """Attention probabilities [B, Lq, Lk], or [B, H, Lq, Lk] where not averaged over heads."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1)
    return weights.mean(1) if average else weights
