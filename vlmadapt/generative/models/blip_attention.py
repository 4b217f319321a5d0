"""BLIP of ``transformers``: its text layers, and what stands in for their forwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from vlmadapt.doors import Door
from vlmadapt.generative.models.sites import (
    AttentionAdapter,
    AttentionSite,
    FeedForwardSite,
    Sites,
    attention_adapter,
    feed_forward_adapter,
    split_heads,
)
from vlmadapt.generative.models.wrappers import plain_names

MODULE = "transformers.models.blip.modeling_blip_text"

# What transformers may pass along to every layer, besides what an attention uses.
PASSED_ALONG = {
    "num_items_in_batch": "only the loss divides by it",
    "output_hidden_states": "the model collects them from its layers",
    "return_dict": "the model's outermost forward sees to it",
    "use_cache": "the cache is made, or not, before the layers are called",
}
REFUSED = {
    "output_attentions": "attention probabilities are not kept, leave it out",
    "is_causal": "the mask decides, leave it out",
}
# Until transformers 5.3 a cache of fixed size was told where to write.
CACHED = ("past_key_values", "cache_position")
RENAMED = {"cache": "past_key_values"}  # transformers 5.24

ATTENTION = Door(
    "transformers",
    "BlipTextSelfAttention.forward",
    ("hidden_states", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", *CACHED),
    optional=frozenset({"cache_position"}),
    aliases=RENAMED,
    no_effect=PASSED_ALONG,
    refuses=REFUSED,
)
CROSS_ATTENTION = Door(
    "transformers",
    "BlipTextAttention.forward",
    ("hidden_states", "attention_mask", "encoder_hidden_states", *CACHED),
    optional=frozenset({"cache_position"}),
    aliases=RENAMED,
    no_effect=PASSED_ALONG,
    refuses=REFUSED,
)
OUTPUT = Door("transformers", "BlipTextSelfOutput.forward", ("hidden_states", "input_tensor"))
FEED_FORWARD = Door("transformers", "BlipTextOutput.forward", ("hidden_states", "input_tensor"))


def text_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every ``BlipTextLayer`` of ``model`` with its name, wrappers within left out."""
    code = sys.modules.get(MODULE)
    if code is None:  # Then no such model can have been made.
        return
    plain = plain_names(model)
    for name, layer in model.named_modules():
        if isinstance(layer, code.BlipTextLayer):
            yield plain(name), layer


def find_sites(model: nn.Module) -> Sites:
    """Sites in every text layer of ``model``.

    Raises :class:`IncompatibleLibrary` where the installed transformers' layers take other arguments than those known.
    """
    attentions, feed_forwards = [], []
    for name, layer in text_layers(model):
        attentions.append(_attention(f"{name}.attention", layer.attention, "self"))
        if hasattr(layer, "crossattention"):
            attentions.append(_attention(f"{name}.crossattention", layer.crossattention, "cross"))
        output, dense = layer.output, layer.output.dense
        forwards = [(output, FEED_FORWARD.replace(type(output).forward, _feed_forward))]
        feed_forwards.append(
            FeedForwardSite(f"{name}.output", output, dense.out_features, dense.weight, forwards, dense)
        )
    return Sites(attentions, feed_forwards)


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
        decoder="text_encoder" not in name.split("."),
    )


def _adapter(owner: Any) -> AttentionAdapter:
    return cast("AttentionAdapter", attention_adapter(owner))  # these forwards run while one is attached


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
    return _adapter(owner).attend(query, key, value, owner.output.dense, mask=mask, dropout=dropout), None


def _combine(owner: Any, hidden_states: tuple[Tensor, Tensor], input_tensor: Tensor) -> Tensor:
    """In place of ``BlipTextSelfOutput.forward``, whose ``hidden_states`` are what :func:`_attend` returned."""
    context, messages = hidden_states
    output = owner.output
    hidden = output.dropout(output.dense(context))
    return output.LayerNorm(_adapter(owner).combine(hidden, messages) + input_tensor)


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
    key, value = cache.update(key, _adapter(owner).pack(value, owner.output.dense), layer, *placed)
    if shared and cross:
        past.is_updated[layer] = True
    return key, value


def _feed_forward(output: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
    """In place of ``BlipTextOutput.forward``, whose ``input_tensor`` is also what the feed-forward layer read."""
    return type(output).forward(output, hidden_states, input_tensor + feed_forward_adapter(output)(input_tensor))


def mask_cross_attention(model: nn.Module) -> nn.Module:
    """Have a BLIP's cross-attentions obey ``encoder_attention_mask``, as published BLIP models were trained with.

    In transformers 5 the mask does not reach them, so that an answer depends on the padding of its question, that is
    on the other questions of the batch. Returns ``model``, changed in place; harmless where it is not needed. Raises
    :class:`IncompatibleLibrary` where the installed transformers' attentions take other arguments than those known.
    """
    for module in model.modules():
        attention = getattr(module, "crossattention", None)
        if attention is not None:
            attention.forward = MethodType(_masked(attention), attention)
    return model


def _masked(attention: Any) -> Callable[..., Any]:
    """In place of ``BlipTextAttention.forward``, whose ``attention_mask`` is that of the encoder here."""
    spelt = ATTENTION.spelling(type(attention.self).forward)

    def forward(
        attention: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        **cached: Any,
    ) -> tuple[Any, ...]:
        attended = attention.self(
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=attention_mask,
            **{spelt[name]: value for name, value in cached.items() if value is not None},
        )
        return attention.output(attended[0], hidden_states), *attended[1:]

    return CROSS_ATTENTION.replace(type(attention).forward, forward)
