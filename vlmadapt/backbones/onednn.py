"""Frozen image towers through oneDNN's fused operators: the engine ``onednn``. Ours.

What ``torch.compile`` emits for frozen weights on a CPU, without its compiler: weights are packed once, activations and
additions are done while a result is in registers, and few pictures go through at a time, so that what one layer wrote
is still in a cache when the next one reads it. The plain tower makes ten times as many passes over memory.

The operators are torch's own but not public: :func:`usable` compares what they give with public ones first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PICTURES_AT_ONCE = {"convolutions": 4, "transformer": 8}
PACKED_FOR = 8 * 50  # rows that a linear map is packed for: a hint, it takes any number
TOLERANCE = 1e-5  # of the trial, relative and absolute

Activation = tuple[str, list[float], str]
NONE: Activation = ("none", [], "")
RELU6: Activation = ("hardtanh", [0.0, 6.0], "")
STRIDE = 32  # of EfficientNet as a whole: sides that it divides are halved without a rest

# What an image tower makes of pixels, and of what pictures: see fused_convolutions and fused_transformer.
FastTower = Callable[[Tensor], Any]


@cache
@torch.no_grad()
def usable() -> bool:
    """Whether this torch has the operators, and they give what the public ones give."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.random.fork_rng(devices=[]):
        conv, depthwise = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        pixels, linear = torch.randn(2, 8, 6, 6), nn.Linear(8, 16)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    rows = pixels.flatten(1).view(-1, 8)
    try:
        found = [
            Convolution(depthwise, RELU6)(pixels),
            Convolution(conv).onto(pixels, pixels.clone()),
            Linear(linear.weight, linear.bias)(rows),
            Linear(linear.weight, linear.bias, ("gelu", [], "none"))(rows),
        ]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # another torch, or none built with oneDNN
        return False
    wanted = [F.relu6(depthwise(pixels)), pixels + conv(pixels), linear(rows), F.gelu(linear(rows))]
    return all(torch.allclose(a, b, TOLERANCE, TOLERANCE) for a, b in zip(found, wanted, strict=True))


def takes(pixels: Tensor) -> bool:
    """Whether a fast tower may stand for the plain one: it has no gradient and computes in float32."""
    watched = pixels.requires_grad and torch.is_grad_enabled()
    return not watched and pixels.dtype == torch.float32 and not torch.is_autocast_enabled(pixels.device.type)


class Convolution:
    """``conv`` with its activation, on channels-last pictures ``[B, C, H, W]``; ``flipped``: of pictures upside down
    and mirrored, which a stride of 2 pads above and left where timm's "same" pads below and right: without a copy."""

    def __init__(self, conv: nn.Conv2d, activation: Activation = NONE, flipped: bool = False) -> None:
        padding = [(side - 1) // 2 for side in conv.kernel_size] if flipped else [int(each) for each in conv.padding]
        layout = padding, list(conv.stride), list(conv.dilation), conv.groups
        weight = conv.weight.detach()
        if flipped:
            weight = weight.flip(2, 3).contiguous(memory_format=torch.channels_last)
        example = [PICTURES_AT_ONCE["convolutions"], conv.in_channels, STRIDE, STRIDE]
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *layout, example)
        bias = None if conv.bias is None else conv.bias.detach()
        self.arguments = packed, bias, *layout
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x, *self.arguments, *self.activation)

    def onto(self, x: Tensor, total: Tensor) -> Tensor:
        """``total + conv(x)``, written over ``total``."""
        fused = torch.ops.mkldnn._convolution_pointwise_.binary
        return fused(total, x, *self.arguments, "add", 1.0, None, [], None)


class Linear(nn.Module):
    """``activation(x @ weight.T + bias)`` of rows ``[..., width]``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation = NONE) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR)
        self.bias = None if bias is None else bias.detach()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *self.activation)


def fused_convolutions(net: Any) -> FastTower:
    """A timm EfficientNet-Lite with folded batch norms, as pixels ``[B, 3, H, W]`` -> pooled features ``[B, E]``.

    Sides must be multiples of 32. Pictures go through flipped (:class:`Convolution`), which pooling does not see.
    """
    steps: list[Callable[[Tensor], Tensor]] = [_convolution(net.conv_stem, net.bn1)]
    for block in net.blocks.modules():
        if hasattr(block, "conv_pwl"):  # expand, depthwise, project
            expand, deep = _convolution(block.conv_pw, block.bn1), _convolution(block.conv_dw, block.bn2)
            steps.append(_block([expand, deep], _convolution(block.conv_pwl, block.bn3), block.has_skip))
        elif hasattr(block, "conv_dw"):  # depthwise, project
            deep = _convolution(block.conv_dw, block.bn1)
            steps.append(_block([deep], _convolution(block.conv_pw, block.bn2), block.has_skip))
    steps.append(_convolution(net.conv_head, net.bn2))

    def tower(pixels: Tensor) -> Tensor:
        x = pixels.flip(2, 3).contiguous(memory_format=torch.channels_last)
        for step in steps:
            x = step(x)
        return x.mean((2, 3))

    return _few_at_once(tower, PICTURES_AT_ONCE["convolutions"])


def _convolution(conv: nn.Conv2d, activation: nn.Module) -> Convolution:
    return Convolution(conv, RELU6 if isinstance(activation, nn.ReLU6) else NONE, flipped=True)


def _block(before: list[Convolution], last: Convolution, skips: bool) -> Callable[[Tensor], Tensor]:
    def block(x: Tensor) -> Tensor:
        y = x
        for convolution in before:
            y = convolution(y)
        return last.onto(y, x) if skips else last(y)

    return block


def fused_transformer(visual: nn.Module) -> FastTower | None:
    """An open_clip vision transformer, as pixels ``[B, 3, H, W]`` -> features ``[B, D]``, with packed linear maps.

    None where no block is of the known kind. The copy shares all tensors but those maps, which take their memory once
    more.
    """
    shared = {id(tensor): tensor for tensor in chain(visual.parameters(), visual.buffers())}
    tower = copy.deepcopy(visual, shared)
    blocks = [block for block in tower.modules() if _is_known(block)]
    for block in blocks:
        block.attn, block.mlp = Attention(block.attn), _feed_forward(block.mlp)  # type: ignore[assignment, arg-type]
    return _few_at_once(tower, PICTURES_AT_ONCE["transformer"]) if blocks else None


def _is_known(block: nn.Module) -> bool:
    attention, layers = getattr(block, "attn", None), getattr(block, "mlp", None)
    if type(attention) is not nn.MultiheadAttention or type(layers) is not nn.Sequential or len(layers) != 3:
        return False
    packed = attention._qkv_same_embed_dim and attention.in_proj_bias is not None and attention.bias_k is None
    return packed and attention.batch_first and type(layers[0]) is type(layers[2]) is nn.Linear


def _feed_forward(layers: nn.Sequential) -> nn.Sequential:
    first, activation, last = cast("tuple[nn.Linear, nn.Module, nn.Linear]", tuple(layers))
    fused = type(activation) is nn.GELU
    kind: Activation = ("gelu", [], str(activation.approximate)) if fused else NONE
    second = Linear(last.weight, last.bias)
    return nn.Sequential(Linear(first.weight, first.bias, kind), *([] if fused else [activation]), second)


class Attention(nn.Module):
    """``packed``, of one sequence with itself: what open_clip's towers call of it."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = packed.num_heads
        self.inputs = Linear(packed.in_proj_weight, packed.in_proj_bias)
        self.output = Linear(packed.out_proj.weight, packed.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool, attn_mask: Tensor | None
    ) -> tuple[Tensor, None]:
        """Query ``[B, L, E]``, which key and value are too. An argument that is not known here is an error."""
        if need_weights or query is not key or key is not value:
            raise NotImplementedError("the engine onednn has self-attention without weights: load with engine='torch'.")
        maps = self.inputs(query).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(maps[0], maps[1], maps[2], attn_mask=attn_mask)
        return self.output(mixed.transpose(1, 2).flatten(2)), None


def _few_at_once(tower: Callable[[Tensor], Tensor], count: int) -> FastTower:
    def fast(pixels: Tensor) -> Tensor:
        return torch.cat([tower(few) for few in pixels.split(count)])

    return fast
