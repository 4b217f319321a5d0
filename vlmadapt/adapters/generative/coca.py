"""CoCa of ``open_clip``, and ``nn.MultiheadAttention`` wherever it stands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vlmadapt.adapters.generative.protocol import AttentionKind, AttentionSite, FeedForwardSite, Sites
from vlmadapt.backbones.generative.multihead import multihead_forward, unsupported
from vlmadapt.doors import Door
from vlmadapt.errors import InputError

MODULE = "open_clip.transformer"
FEED_FORWARD = Door("torch", "nn.Sequential.forward", ("input",))


def find_sites(model: nn.Module) -> Sites | None:
    """Both halves of CoCa's text decoder, the unimodal ``text`` (where it is open_clip's own) and ``text_decoder``.

    Raises :class:`InputError` for attentions of another class than torch's.
    """
    code = sys.modules.get(MODULE)
    if code is None:  # Then no such model can have been made.
        return None
    text, decoder = getattr(model, "text", None), getattr(model, "text_decoder", None)
    if not isinstance(decoder, code.MultimodalTransformer):
        return None
    groups: list[tuple[str, AttentionKind, Any]] = [
        ("text_decoder.resblocks", "self", decoder.resblocks),
        ("text_decoder.cross_attn", "cross", decoder.cross_attn),
    ]
    if isinstance(text, code.TextTransformer):
        groups.insert(0, ("text.transformer.resblocks", "self", text.transformer.resblocks))
    attentions, feed_forwards = [], []
    feed_forward = FEED_FORWARD.replace(nn.Sequential.forward, _feed_forward)
    for prefix, kind, blocks in groups:
        for number, block in enumerate(blocks):
            name = f"{prefix}.{number}"
            if not isinstance(getattr(block, "attn", None), nn.MultiheadAttention):
                raise InputError(
                    f"model's {name} has a {type(getattr(block, 'attn', None)).__name__} for its attention, which is "
                    "not adapted here: use a CoCa configuration with open_clip's default blocks."
                )
            attentions.append(multihead_site(f"{name}.attn", block.attn, kind))
            first = block.mlp.c_fc.weight
            feed_forwards.append(
                FeedForwardSite(f"{name}.mlp", block, first.shape[1], first, [(block.mlp, feed_forward)])
            )
    return Sites(attentions, feed_forwards)


def multihead_site(name: str, module: nn.MultiheadAttention, kind: AttentionKind) -> AttentionSite:
    """The site of one attention: ``module`` is the model's ``name``, ``kind`` is ``"self"`` or ``"cross"``.

    Raises :class:`InputError` for add_bias_kv and add_zero_attn.
    """
    option = unsupported(module)
    if option is not None:
        raise InputError(f"{name} was made with {option}, which the p-adapter does not know: leave it out of sites.")
    return AttentionSite(
        name, kind, module, module.num_heads, module.out_proj, [(module, multihead_forward())], _refuse_fast_path
    )


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


def _feed_forward(block: Any, input: Tensor) -> Tensor:
    """In place of the forward of ``block.mlp``; the adapter is a child of the block, since ``mlp`` is a sequence."""
    return type(block.mlp).forward(block.mlp, input) + block.ffn_adapter(input)


def _refuse_fast_path(attached: Any, owner: nn.Module) -> None:
    """nn.TransformerEncoderLayer's fused evaluation does not call its attention, unless that has a hook."""
    handle = owner.register_forward_pre_hook(_nothing)
    attached.on_detach(handle.remove)


def _nothing(module: nn.Module, inputs: Any) -> None:
    pass
