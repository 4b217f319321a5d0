"""Attentions reached through ``AttentionInterface``, the door that ``transformers`` holds open. Ours.

No forward is replaced: the model projects queries, keys and values, rotates them and keeps its own cache, and calls the
function registered here in place of its attention. What an adapter does behind the output projection is a forward hook.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import torch
from torch import Tensor, nn

from vlmadapt.doors import Door, known_versions
from vlmadapt.errors import IncompatibleLibrary, InputError, shape_of
from vlmadapt.generative.models.sites import (
    Attaching,
    AttentionAdapter,
    AttentionSite,
    FeedForwardSite,
    Sites,
    attention_adapter,
)
from vlmadapt.generative.models.wrappers import plain_names

IMPLEMENTATION = "vlmadapt"  # the name the attention function is registered under
# Attributes beside an owner's modules: its output and query projections; and of the latter, what it gave just now.
OUTPUT_SLOT, QUERY_SLOT, PROJECTED = "attention_output", "attention_query", "projected"
DISPATCH = "ALL_ATTENTION_FUNCTIONS"  # what a forward that goes through the interface reads

# Children, by the names that models of transformers give them.
OUTPUTS = ("o_proj", "out_proj", "proj", "projection", "o")
LAST_OF_FEED_FORWARD = ("down_proj", "fc2", "wo")
QUERIES = ("q_proj", "q", "query")
PROJECTIONS = (*QUERIES, "v_proj", "v", "value", "qkv")
CROSS = ("cross", "encdec", "encoder_attn")

PACKED = "it packs several texts into one, which needs a mask here: pass padded texts"
ATTENTION = Door(
    "transformers",
    "The attention",
    ("scaling", "dropout", "is_causal", "position_bias", "sliding_window"),
    no_effect={
        "position_ids": "queries and keys are rotated already; packed texts have their mask",
        "cache_position": "the mask tells what is seen",
        "use_cache": "the cache is the model's own",
        "output_hidden_states": "the model collects them from its layers",
        "return_dict": "the model's outermost forward sees to it",
        "num_items_in_batch": "only the loss divides by it",
        "logits_to_keep": "of the output words",
    },
    refuses={
        "output_attentions": "attention probabilities are not kept, leave it out",
        "softcap": "soft caps on the scores are not known here, adapt another model",
        "s_aux": "attention sinks are not known here, adapt another model",
        "head_mask": "heads cannot be masked here, leave it out",
        "cu_seq_lens_q": PACKED,
        "cu_seq_lens_k": PACKED,
        "max_length_q": PACKED,
        "max_length_k": PACKED,
        "seq_idx": PACKED,
    },
)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """What ``transformers`` calls: the adapter's context [B, Lq, H, e], or scaled dot-product attention where
    ``module`` has none.

    query [B, H, Lq, e], key and value [B, G, Lk, e]; mask and options as the model gives them. Raises
    :class:`InputError` for an option that an adapter cannot obey, :class:`IncompatibleLibrary` for an unknown one.
    """
    adapter = attention_adapter(module)
    if adapter is None:
        return _interface()["sdpa"](module, query, key, value, attention_mask, **options)
    given = ATTENTION.read(options)
    if attention_mask is not None and not (isinstance(attention_mask, Tensor) and attention_mask.dim() == 4):
        raise InputError(f"attention_mask is {_said(attention_mask)}, but must be [B, 1 or H, Lq, Lk] or None.")
    nodes = _projected(module, query)
    if len(query) != len(key):  # a Q-Former asks the same of every picture
        query = query.expand(len(key), -1, -1, -1)
        nodes = None if nodes is None else nodes.expand(query.shape)
    queries, keys = query.shape[2], key.shape[2]
    causal = given.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    causal = bool(causal) and attention_mask is None and queries > 1
    window = given.get("sliding_window")
    if window is not None and attention_mask is None and keys > window:
        raise InputError(f"The attention was given sliding_window={window} without a mask that has it: pass a mask.")
    if causal and keys > queries:  # of a cache of fixed size, with nothing beyond the queries in it yet
        key, value = key[:, :, :queries], value[:, :, :queries]
    mask = attention_mask
    bias = given.get("position_bias")
    if bias is not None:
        mask, causal = _biased(bias.detach(), mask, causal), False
    context, _ = adapter.attend(
        query,
        key,
        value,
        module.__dict__[OUTPUT_SLOT],
        nodes=nodes,
        mask=mask,
        is_causal=causal,
        scale=given.get("scaling"),
        dropout=given.get("dropout", 0.0),
    )
    return context.unflatten(-1, (query.shape[1], -1)), None


def _projected(module: nn.Module, query: Tensor) -> Tensor | None:
    """``query`` [B, H, Lq, e] as it was projected, before it was rotated or scaled; None where keys and values come
    out of the same map.

    Rotated queries would tell node features how long a text is, which rotary embeddings (arXiv 2104.09864) hide.
    """
    projection = module.__dict__[QUERY_SLOT]
    if projection is None:
        return None
    found = projection.__dict__.pop(PROJECTED)
    batch, heads, queries, width = query.shape
    if found.shape != (batch, queries, heads * width):
        raise IncompatibleLibrary(
            f"{type(module).__name__} projects its queries to {shape_of(found)}, not to {heads} heads of {width}: "
            f"{known_versions('transformers')}."
        )
    return found.view(batch, queries, heads, width).transpose(1, 2)


def _keep(projection: nn.Module, inputs: Any, output: Tensor) -> None:
    projection.__dict__[PROJECTED] = output


def _biased(bias: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """``bias`` with ``mask`` in it, to be added to the scores."""
    if causal:
        mask = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()
    if mask is None:
        return bias
    return torch.where(mask, bias, -torch.inf) if mask.dtype == torch.bool else bias + mask


def _said(mask: Any) -> str:
    return shape_of(mask) if isinstance(mask, Tensor) else f"a {type(mask).__name__}"


def through_interface(module: nn.Module) -> bool:
    """Whether ``module`` is an attention of transformers that asks the interface what to run."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and DISPATCH in code.co_names and hasattr(module, "config")


def interface_sites(model: nn.Module, *prefixes: str) -> Sites:
    """Attentions under ``prefixes``, names of modules (none: everywhere), that go through ``AttentionInterface``, and
    the feed-forward layers beside them.

    Raises :class:`InputError` where there is no such attention, or one without a known output projection.
    """
    plain = plain_names(model)
    found = [(plain(name), module) for name, module in model.named_modules()]
    parents = dict(found)
    found = [(name, module) for name, module in found if _under(name, prefixes)]
    attentions = [
        _site(model, name, module, parents[name.rpartition(".")[0]])
        for name, module in found
        if through_interface(module)
    ]
    if not attentions:
        raise InputError(
            f"model is a {type(model).__name__} without an attention under {list(prefixes) or 'any name'} that asks "
            f"AttentionInterface what to run, in the transformers installed ({version('transformers')}): install a "
            "newer one, or pass sites= (docs/p_adapter.md)."
        )
    layers = {_layer(site.name) for site in attentions} - {None}
    feed_forwards = [
        FeedForwardSite(name, module, module.out_features, module.weight, (), module)
        for name, module in found
        if name.rpartition(".")[2] in LAST_OF_FEED_FORWARD and isinstance(module, nn.Linear) and _layer(name) in layers
    ]
    return Sites(attentions, feed_forwards)


def _layer(name: str) -> str | None:
    """``layers.3`` of ``layers.3.mlp.fc2``: the layer that ``name`` is part of; None for what stands beside layers."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return None if found is None else found.group()


def _under(name: str, prefixes: tuple[str, ...]) -> bool:
    return not prefixes or any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _site(model: nn.Module, name: str, owner: Any, parent: Any) -> AttentionSite:
    output = next((getattr(owner, child) for child in OUTPUTS if hasattr(owner, child)), None)
    if output is None:  # BERT's kind: attention.attention and attention.output.dense
        output = getattr(getattr(parent, "output", None), "dense", None)
    if not isinstance(output, nn.Linear):
        raise InputError(f"{name} ({type(owner).__name__}) has no output projection known here: leave it out of sites.")
    return AttentionSite(
        name,
        "cross" if any(part in name.lower() for part in CROSS) else "self",
        owner,
        _heads(owner),
        output,
        (),
        partial(_switch, model, output),
        decoder=_decodes(owner),
        packs=False,
    )


def _decodes(owner: Any) -> bool:
    """Whether an attention has a cache: PaliGemma's say that they are not causal, but have a place in one."""
    if hasattr(owner, "is_decoder"):
        return bool(owner.is_decoder)
    return hasattr(owner, "layer_idx") or bool(getattr(owner, "is_causal", True))


def _heads(owner: Any) -> int:
    names = ("num_heads", "num_attention_heads", "n_heads")
    return next(getattr(place, name) for place in (owner, owner.config) for name in names if hasattr(place, name))


def projections(owner: nn.Module) -> list[nn.Module]:
    """The query and value projections of an attention, or the one map that has both."""
    children = dict(owner.named_children())
    return [children[name] for name in PROJECTIONS if isinstance(children.get(name), nn.Linear)]


def _switch(model: nn.Module, output: nn.Module, attached: Attaching, owner: Any) -> None:
    """Have ``owner`` ask the function of this file, and ``output`` the adapter, until ``attached`` is detached."""
    _register()
    query = next((child for name, child in owner.named_children() if name in QUERIES), None)
    for slot, module in ((OUTPUT_SLOT, output), (QUERY_SLOT, query)):
        owner.__dict__[slot] = module
        attached.on_detach(partial(owner.__dict__.pop, slot, None))
    if query is not None:
        attached.on_detach(query.register_forward_hook(_keep).remove)
        attached.on_detach(partial(query.__dict__.pop, PROJECTED, None))
    attached.on_detach(output.register_forward_hook(partial(_combine, owner)).remove)
    for config in _configurations(model, owner.config):
        before = config._attn_implementation
        if before != IMPLEMENTATION:
            config._attn_implementation_internal = IMPLEMENTATION
            attached.on_detach(partial(setattr, config, "_attn_implementation_internal", before))
    if owner.config._attn_implementation != IMPLEMENTATION:
        raise IncompatibleLibrary(f"The implementation of attentions cannot be set: {known_versions('transformers')}.")


def _combine(owner: nn.Module, output: nn.Module, inputs: Any, hidden: Tensor) -> Tensor:
    return cast("AttentionAdapter", attention_adapter(owner)).combine(hidden, None)


def _configurations(model: nn.Module, wanted: Any) -> Iterator[Any]:
    """Every configuration in ``model`` that is, or was copied from, ``wanted``: a model and what is around it may each
    have one, and masks are made by the outer one."""
    seen: dict[int, Any] = {}
    for module in model.modules():
        _collect(getattr(module, "config", None), seen)
    return (config for config in seen.values() if type(config) is type(wanted))


def _collect(config: Any, seen: dict[int, Any]) -> None:
    if config is None or id(config) in seen or not hasattr(config, "_attn_implementation"):
        return
    seen[id(config)] = config
    for name in config.sub_configs:
        _collect(getattr(config, name, None), seen)


def _interface() -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS


def _register() -> None:
    """Make this file's functions known to transformers, under ``IMPLEMENTATION``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, make_mask)


def make_mask(*arguments: Any, config: Any = None, **options: Any) -> Tensor | None:
    """The mask of scaled dot-product attention: True where a key is seen, None where ``is_causal`` says it all.

    PaliGemma's attentions say that they are not causal and rely on the mask; left out, as transformers does for plain
    causal masks, a prompt would see what follows it.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    if getattr(config, "use_bidirectional_attention", None):
        options["allow_is_causal_skip"] = False
    return ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*arguments, config=config, **options)
