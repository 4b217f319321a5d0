"""Generation for open_clip's CoCa through ``transformers``' GenerationMixin, with a KV cache.

open_clip 3.3's own ``CoCa.generate`` imports classes transformers 5 no longer has, and has no cache. Here the mixin
drives the search and the sampling, and open_clip's own blocks compute; while generating, each attention keeps its
keys and values in a ``transformers`` cache (:mod:`vlmadapt.generative.models.multihead`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.errors import InputError, shape_of
from vlmadapt.generative.models.multihead import CACHE, CacheSlot, multihead_forward, unsupported
from vlmadapt.generative.models.search import decoder_class

# Those of CLIP's vocabulary, with which open_clip's CoCa models were trained.
START, END = 49406, 49407
MAX_LENGTH = 30


@torch.no_grad()
def generate(
    model: nn.Module,
    images: Tensor,
    prompt: Tensor | None = None,
    *,
    use_cache: bool = True,
    start_token: int = START,
    end_token: int = END,
    **options: Any,
) -> Any:
    """Texts for ``images`` by an open_clip CoCa.

    images: ``[B, 3, H, W]`` as the model's transform gives them, or what the model's ``_encode_image`` made of them:
        image tokens ``[B, N, D]``.
    prompt: int64 ``[B, L]``, tokens to go on from, the start token first and no padding; default: the start token.
    use_cache: keep keys and values of past tokens; the result is the same without, slower. A text tower that is not
        open_clip's own causal one, or attentions that something else has taken over, are recomputed in any case.
    options: those of ``transformers``' ``generate``: nothing for the greedy search, ``num_beams=``, or
        ``do_sample=True, top_p=``; ``max_length=`` (30 tokens, prompt included) or ``max_new_tokens=``, ...

    Returns int64 ``[B, L']``, prompt included, padded with the model's own padding token; what ``transformers``
    returns where ``return_dict_in_generate`` is passed. Raises :class:`InputError` when ``model`` is no CoCa, or
    more tokens are asked for than it has positions; :class:`IncompatibleLibrary` where the installed transformers is
    not one of those known.
    """
    for name in ("visual", "text", "text_decoder", "context_length", "pad_id"):
        if not hasattr(model, name):
            raise InputError(f"model is a {type(model).__name__} without {name!r}: pass an open_clip CoCa.")
    if images.dim() not in (3, 4):
        raise InputError(f"images are {shape_of(images)}: pass [B, 3, H, W], or image tokens [B, N, D].")
    if prompt is None:
        prompt = torch.full((len(images), 1), start_token, dtype=torch.long, device=images.device)
    if prompt.dim() != 2 or len(prompt) != len(images) or prompt.is_floating_point():
        raise InputError(f"prompt is {shape_of(prompt)} but must be int64 [{len(images)}, L]: one row an image.")
    more = options.get("max_new_tokens")
    limit = options.pop("max_length", None) if more is None else prompt.shape[1] + more
    limit = max(MAX_LENGTH, prompt.shape[1] + 1) if limit is None else limit
    positions: Any = model.context_length
    if limit > positions:
        raise InputError(f"max_length is {limit} but the model has {positions} positions: pass at most {positions}.")
    for name in ("attention_mask", "states", "mask", "past_key_values", "cache"):
        if options.get(name) is not None:
            raise InputError(f"{name} was passed but is made from images and prompt here: leave it out.")
    if len(images) == 0:
        return prompt
    training = model.training
    model.eval()
    try:
        image_tokens = model._encode_image(images)[1] if images.dim() == 4 else images  # type: ignore[operator]
        decoder = decoder_class()(
            model,
            lambda tokens, states, mask, cache: _step(model, tokens, states, cache),
            model.text.vocab_size,  # type: ignore[union-attr]
            start_token,
            end_token,
            model.pad_id,
        )
        attentions = _cacheable(model) if use_cache else None
        options |= {"states": image_tokens, "attention_mask": torch.ones_like(prompt)}
        options |= {"max_length": limit, "max_new_tokens": None}
        if attentions is None:
            result = decoder.generate(prompt, use_cache=False, **options)
        else:
            with _caching(attentions) as cache:
                result = decoder.generate(prompt, use_cache=True, **{decoder.cache_name: cache}, **options)
    finally:
        model.train(training)
    sequences = result if isinstance(result, Tensor) else result.sequences
    _pad(sequences, prompt.shape[1], end_token, decoder.generation_config.pad_token_id)
    return result


def _pad(sequences: Tensor, first: int, end: int, pad: int) -> None:
    """Beam search takes a padding token of 0, which CoCa's is, for none, and repeats the end token instead."""
    ends = sequences[:, first:] == end
    sequences[:, first:].masked_fill_((ends.cumsum(-1) - ends.long()) > 0, pad)


def _step(model: Any, tokens: Tensor, image_tokens: Tensor, cache: Any) -> Tensor:
    """[B, L, V], at least of the last position."""
    if cache is None:
        return _all_logits(model, tokens, image_tokens)
    return _next_logits(model, tokens, image_tokens, cache.get_seq_length())


def _all_logits(model: Any, tokens: Tensor, image_tokens: Tensor) -> Tensor:
    """[B, L, V], as the model's own forward computes them."""
    _, embeddings = model._encode_text(tokens)
    return model.text_decoder(image_tokens, embeddings)


def _next_logits(model: Any, tokens: Tensor, image_tokens: Tensor, past: int) -> Tensor:
    """[B, 1, V] after the last of ``tokens`` [B, L], of which ``past`` are cached."""
    text, decoder = model.text, model.text_decoder
    dtype = text.transformer.get_cast_dtype()
    length = tokens.shape[1]
    # The class token at the end is left out: causal attention hides it from all others.
    x = text.token_embedding(tokens[:, past:]).to(dtype) + text.positional_embedding[past:length].to(dtype)
    mask = _text_mask(text, tokens)[:, past:]
    for block in text.transformer.resblocks:
        x = block(x, attn_mask=mask)
    for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        x = block(x, attn_mask=decoder.attn_mask[past:length, :length])
        x = cross(x, k_x=image_tokens, v_x=image_tokens)
    x = decoder.ln_final(x[:, -1:])
    return x if decoder.text_projection is None else x @ decoder.text_projection


def _text_mask(text: Any, tokens: Tensor) -> Tensor:
    """What is added to the unimodal half's products, [B * H, L, L]; its padding mask included, off by one or not."""
    length = tokens.shape[1]
    causal = text.attn_mask[:length, :length]
    return causal + text._build_additive_mask(tokens, length + 1, causal.dtype)[:, :length, :length]


def _cacheable(model: Any) -> list[tuple[nn.MultiheadAttention, bool]] | None:
    """The attentions in the order they run, and whether their keys grow; ``None`` if any cannot be cached."""
    text, decoder = model.text, model.text_decoder
    if getattr(text, "attn_mask", None) is None or getattr(text, "cls_emb", None) is None:
        return None
    blocks = [(block, True) for block in [*text.transformer.resblocks, *decoder.resblocks]]
    found = []
    for block, grows in [*blocks, *((block, False) for block in decoder.cross_attn)]:
        # Methods that wrap an attention call it all the same.
        inside = [module for module in block.attn.modules() if isinstance(module, nn.MultiheadAttention)]
        if len(inside) != 1 or unsupported(inside[0]) is not None or not inside[0].batch_first:
            return None
        present = inside[0].__dict__.get("forward")
        if present is not None and getattr(present, "__func__", None) is not multihead_forward():
            return None
        found.append((inside[0], grows))
    return found


@contextmanager
def _caching(attentions: list[tuple[nn.MultiheadAttention, bool]]) -> Iterator[Any]:
    """A cache that ``attentions`` fill and read while in this block."""
    from transformers import DynamicCache, EncoderDecoderCache

    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    borrowed = []
    growing = fixed = 0
    try:
        for module, grows in attentions:
            own = cache.self_attention_cache if grows else cache.cross_attention_cache
            module.__dict__[CACHE] = CacheSlot(own, growing if grows else fixed, grows)
            growing, fixed = growing + grows, fixed + (not grows)
            if "forward" not in module.__dict__:
                module.__dict__["forward"] = MethodType(multihead_forward(), module)
                borrowed.append(module)
        yield cache
    finally:
        for module, _ in attentions:
            module.__dict__.pop(CACHE, None)
        for module in borrowed:
            del module.__dict__["forward"]
