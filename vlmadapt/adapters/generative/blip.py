"""BLIP of ``transformers``: attentions and feed-forward layers of its text encoders and decoders."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from vlmadapt.adapters.generative.protocol import AttentionSite, FeedForwardSite, Sites, split_heads
from vlmadapt.backbones.generative.blip import ATTENTION
from vlmadapt.doors import Door

MODULE = "transformers.models.blip.modeling_blip_text"


OUTPUT = Door("transformers", "BlipTextSelfOutput.forward", ("hidden_states", "input_tensor"))
FEED_FORWARD = Door("transformers", "BlipTextOutput.forward", ("hidden_states", "input_tensor"))


def find_sites(model: nn.Module) -> Sites | None:
    """Sites in every text layer of ``model``; ``None`` if it has none.

    Raises :class:`IncompatibleLibrary` where the installed transformers' layers take other arguments than those known.
    """
    code = sys.modules.get(MODULE)
    if code is None:  # Then no such model can have been made.
        return None
    attentions, feed_forwards = [], []
    for name, layer in model.named_modules():
        if not isinstance(layer, code.BlipTextLayer):
            continue
        attentions.append(_attention(f"{name}.attention", layer.attention, "self"))
        if hasattr(layer, "crossattention"):
            attentions.append(_attention(f"{name}.crossattention", layer.crossattention, "cross"))
        output = layer.output
        forward = FEED_FORWARD.replace(type(output).forward, _feed_forward)
        feed_forwards.append(
            FeedForwardSite(
                f"{name}.output", output, output.dense.out_features, output.dense.weight, [(output, forward)]
            )
        )
    return Sites(attentions, feed_forwards) if attentions else None


def _attention(name: str, owner: Any, kind: Any) -> AttentionSite:
    return AttentionSite(
        name,
        kind,
        owner,
        owner.self.num_attention_heads,
        owner.output.dense,
        # The attention's two halves are replaced, not the whole, so that which mask goes where stays the model's say.
        [
            (owner.self, ATTENTION.replace(type(owner.self).forward, _attend)),
            (owner.output, OUTPUT.replace(type(owner.output).forward, _combine)),
        ],
    )


def _attend(
    owner: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    cache_position: Tensor | None = None,
) -> tuple[tuple[Tensor, Tensor], None]:
    """In place of ``BlipTextSelfAttention.forward``: context and messages; no probabilities, which are not stored."""
    attention = owner.self
    query = split_heads(attention.query(hidden_states), attention.num_attention_heads)
    if encoder_hidden_states is None:
        key, value = _keys_and_values(owner, hidden_states, False, past_key_values, cache_position)
        mask = attention_mask
    else:
        key, value = _keys_and_values(owner, encoder_hidden_states, True, past_key_values, None)
        mask = encoder_attention_mask
    dropout = attention.dropout.p if attention.training else 0.0
    return owner.p_adapter.attend(query, key, value, owner.output.dense, mask=mask, dropout=dropout), None


def _combine(owner: Any, hidden_states: tuple[Tensor, Tensor], input_tensor: Tensor) -> Tensor:
    """In place of ``BlipTextSelfOutput.forward``, whose ``hidden_states`` are what :func:`_attend` returned."""
    context, messages = hidden_states
    output = owner.output
    hidden = output.dropout(output.dense(context))
    return output.LayerNorm(owner.p_adapter.combine(hidden, messages) + input_tensor)


def _keys_and_values(
    owner: Any, states: Tensor, cross: bool, past: Any, position: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of this call and of those before it, through the model's cache; cached values carry their node features.

    position: where in a cache of fixed size they go; only transformers before 5.4 asks its callers.
    """
    attention = owner.self
    layer = attention.layer_idx
    shared = hasattr(past, "cross_attention_cache")
    cache = past
    if shared:
        cache = past.cross_attention_cache if cross else past.self_attention_cache
        if cross and past.is_updated.get(layer):
            return cache.layers[layer].keys, cache.layers[layer].values
    key = split_heads(attention.key(states), attention.num_attention_heads)
    value = split_heads(attention.value(states), attention.num_attention_heads)
    if cache is None:
        return key, value
    placed = () if position is None else ({"cache_position": position},)
    key, value = cache.update(key, owner.p_adapter.pack(value, owner.output.dense), layer, *placed)
    if shared and cross:
        past.is_updated[layer] = True
    return key, value


def _feed_forward(output: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
    """In place of ``BlipTextOutput.forward``, whose ``input_tensor`` is also what the feed-forward layer read."""
    return type(output).forward(output, hidden_states, input_tensor + output.ffn_adapter(input_tensor))
