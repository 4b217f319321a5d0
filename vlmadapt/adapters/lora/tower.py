"""A tower of an encoder with low-rank updates of its attention by ``peft``: a copy on the same weights.

The encoder itself is never changed: the copy has modules of its own and shares only the tensors in them. The maps of an
``nn.MultiheadAttention`` lie packed in one weight; peft would adapt them as one matrix, the output with them, and
without dropout. The copy has them unpacked, so that query, key and value have updates of their own, as in the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.backbones import Encoder
from vlmadapt.doors import import_lora
from vlmadapt.errors import InputError, shape_of

ROLES = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
ADAPTER = "default"  # peft's name for the update


class LowRankTower:
    """``tower``, of an encoder's :func:`twin`, with updates of ``rank`` at query, key and value of every attention.

    ``maps``: how many there are; ``width``: numbers in and out of each; ``dtype`` and ``device`` of their weights.
    Raises :class:`InputError` for a tower whose attention is not known here, which ``name`` then names, and
    :class:`MissingDependency` without peft.
    """

    def __init__(self, tower: nn.Module, name: str, rank: int, alpha: float, dropout: float) -> None:
        settings, inject, _ = import_lora("lora")
        found, self.width = unpacked_maps(tower, name)
        names = list(found)
        with torch.random.fork_rng(devices=[]):  # peft draws a start that is not used
            # rsLoRA's factor, alpha over the root of the rank, is that of the released code.
            inject(
                settings(r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=True, target_modules=names), tower
            )
        self.layers: list[Any] = [tower.get_submodule(each) for each in names]
        weight = self.layers[0].base_layer.weight
        self.maps, self.device = len(names), weight.device
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        tower.eval()

    def use(self, down: Tensor, up: Tensor, training: bool) -> None:
        """Compute with the updates ``down [maps, rank, width]`` and ``up [maps, width, rank]``, in ``training`` with
        dropout; gradients flow to them."""
        for layer, first, second in zip(self.layers, down.unbind(0), up.unbind(0), strict=True):
            _tie(layer.lora_A[ADAPTER], first)
            _tie(layer.lora_B[ADAPTER], second)
            layer.lora_dropout.train(training)


def _tie(linear: Any, weight: Tensor) -> None:
    linear._parameters.pop("weight", None)
    linear.weight = weight


def unpacked_maps(tower: nn.Module, name: str) -> tuple[dict[str, nn.Linear], int]:
    """The maps of query, key and value in ``tower``, which is unpacked in place, and their one width.

    Raises :class:`InputError` where there are none, or of several widths; ``name`` says whose tower it is.
    """
    unpack(tower)
    maps = dict(attention_maps(tower))
    widths = {size for layer in maps.values() for size in (layer.in_features, layer.out_features)}
    if len(widths) != 1:
        raise InputError(
            f"clip-lora finds {len(maps)} maps of query, key and value in the {name}, of widths {sorted(widths)}, and "
            "needs some of one width: use another encoder, or coop."
        )
    return maps, widths.pop()


def add_updates(tower: nn.Module, name: str, updates: Tensor) -> None:
    """Add ``updates [L, E, E]`` to the weights of query, key and value in ``tower``, of an encoder's :func:`twin`.

    Raises :class:`InputError` where they are not of this tower.
    """
    maps, width = unpacked_maps(tower, name)
    if updates.shape != (len(maps), width, width):
        raise InputError(
            f"the updates are {shape_of(updates)} for {len(maps)} maps of width {width} in the {name}: fit again."
        )
    for linear, update in zip(maps.values(), updates, strict=True):
        weight = linear.weight + update.to(linear.weight)
        linear.weight = nn.Parameter(weight, requires_grad=False)


def twin(encoder: Any) -> Any:
    """A copy of ``encoder`` with modules of its own; their tensors, and all that is no module, are shared."""
    shared: dict[int, Any] = {}
    own = {"self": encoder} if isinstance(encoder, nn.Module) else vars(encoder)
    for value in own.values():
        for kept in _tensors(value) if isinstance(value, nn.Module) else (value,):
            shared[id(kept)] = kept
    made = copy.deepcopy(encoder, shared)
    if isinstance(made, Encoder):
        made.use_engine("torch")  # another engine's tower would not see what becomes of the modules
    return made


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    return chain(module.parameters(), module.buffers())


def attention_maps(tower: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear maps of query, key and value in ``tower``, by name, in its order."""
    found: list[tuple[str, nn.Linear]] = []
    for name, module in tower.named_modules():
        children = dict(module.named_children())
        for roles in ROLES:
            maps = [children.get(role) for role in roles]
            if all(isinstance(each, nn.Linear) for each in maps):
                found += [(f"{name}.{role}".lstrip("."), children[role]) for role in roles]
    return found


def unpack(tower: nn.Module) -> None:
    """Put an :class:`Unpacked` in the place of every packed ``nn.MultiheadAttention`` of ``tower``."""
    for name, module in list(tower.named_modules()):
        if isinstance(module, nn.MultiheadAttention) and module._qkv_same_embed_dim and module.bias_k is None:
            owner, _, child = name.rpartition(".")
            setattr(tower.get_submodule(owner), child, Unpacked(module))


class Unpacked(nn.Module):
    """``packed`` as three maps and an attention, on the same weights: what open_clip's towers call of it."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.batch_first = packed.num_heads, packed.batch_first
        weights = packed.in_proj_weight.chunk(3)
        biases = (None,) * 3 if packed.in_proj_bias is None else packed.in_proj_bias.chunk(3)
        for role, weight, bias in zip(ROLES[1], weights, biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
            linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
            if bias is not None:
                linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
            self.add_module(role, linear)
        self.out_proj = packed.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Query, key and value ``[B, L, E]``, or ``[L, B, E]`` where the packed one takes that; ``attn_mask [L, L]`` or
        ``[B heads, L, L]``, additive. Raises :class:`InputError` where attention weights are wanted."""
        if need_weights:
            raise InputError(
                "need_weights is true, but an attention with low-rank updates gives no weights: pass False."
            )
        q, k, v = (
            self._heads(getattr(self, role)(states)) for role, states in zip(ROLES[1], (query, key, value), strict=True)
        )
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.unflatten(0, (-1, self.heads))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        rows = mixed.transpose(1, 2).flatten(2)
        return self.out_proj(rows if self.batch_first else rows.transpose(0, 1)), None

    def _heads(self, states: Tensor) -> Tensor:
        """``[B, heads, L, E / heads]``."""
        rows = states if self.batch_first else states.transpose(0, 1)
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
