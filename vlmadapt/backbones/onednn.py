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

from vlmadapt.errors import InputError

PICTURES_AT_ONCE = {"convolutions": 4, "transformer": 8}
PACKED_FOR = 8 * 50  # rows that a linear map is packed for: a hint, it takes any number
# glibc takes blocks above a bound from the system, whose pages are zeroed anew each time: half of a tower's time. The
# bound rises, up to 32 MiB, to the largest block that was given back.
LARGE_BLOCK = 31 << 20
TOLERANCE = 1e-5  # of the trial, relative and absolute

Activation = tuple[str, list[float], str]
NONE: Activation = ("none", [], "")
RELU6: Activation = ("hardtanh", [0.0, 6.0], "")

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
    """Whether a fast tower may stand for the plain one: it has no gradient and computes in float32; an exported program
    holds the plain one."""
    if torch.compiler.is_exporting():
        return False
    watched = pixels.requires_grad and torch.is_grad_enabled()
    return not watched and pixels.dtype == torch.float32 and not torch.is_autocast_enabled(pixels.device.type)


class Convolution:
    """``conv`` with its activation, on channels-last pictures ``[B, C, H, W]``; ``same``: padded as TensorFlow pads, by
    what is missing for ``ceil(side / stride)`` results, the larger half of it below and to the right.

    Weights are packed for the first shape that comes: it takes others too, but slower, by a factor of up to four.
    """

    def __init__(self, conv: nn.Conv2d, activation: Activation = NONE, same: bool = False) -> None:
        self.conv, self.activation, self.same = conv, activation, same
        self._packed: tuple[Any, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        x = self._with_padding(x) if self.same else x
        return torch.ops.mkldnn._convolution_pointwise(x, *self._arguments(x), *self.activation)

    def onto(self, x: Tensor, total: Tensor) -> Tensor:
        """``total + conv(x)``, written over ``total``."""
        fused = torch.ops.mkldnn._convolution_pointwise_.binary
        return fused(total, x, *self._arguments(x), "add", 1.0, None, [], None)

    def _arguments(self, x: Tensor) -> tuple[Any, ...]:
        if self._packed is None:
            conv = self.conv
            layout = [int(each) for each in conv.padding], list(conv.stride), list(conv.dilation), conv.groups
            weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *layout, list(x.shape))
            self._packed = weight, None if conv.bias is None else conv.bias.detach(), *layout
        return self._packed

    def _with_padding(self, x: Tensor) -> Tensor:
        side, stride = self.conv.kernel_size[0], self.conv.stride[0]
        rows, columns = (max((-(-size // stride) - 1) * stride + side - size, 0) for size in x.shape[2:])
        return _padded(x, rows, columns) if rows or columns else x


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    """``x`` in the middle of zeros, ``rows`` and ``columns`` more, an odd one below or to the right.

    As ``F.pad``, which writes zeros everywhere first: of large pictures that takes longer than a convolution.
    """
    count, channels, height, width = x.shape
    top, left = rows // 2, columns // 2
    wide = x.new_empty(count, height + rows, width + columns, channels).permute(0, 3, 1, 2)
    for edge in (wide[:, :, :top], wide[:, :, top + height :], wide[..., :left], wide[..., left + width :]):
        edge.zero_()
    wide[:, :, top : top + height, left : left + width] = x
    return wide


class Linear(nn.Module):
    """``activation(x @ weight.T + bias)`` of rows ``[..., width]``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation = NONE) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR)
        self.bias = None if bias is None else bias.detach()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *self.activation)


def fused_convolutions(net: Any, side: int) -> FastTower:
    """A timm EfficientNet-Lite with folded batch norms, as pixels ``[B, 3, H, W]`` -> pooled features ``[B, E]``.

    It is prepared for pictures of ``side``.
    """
    from timm.layers import Conv2dSame

    def convolution(conv: nn.Conv2d, activation: nn.Module) -> Convolution:
        return Convolution(conv, RELU6 if isinstance(activation, nn.ReLU6) else NONE, isinstance(conv, Conv2dSame))

    steps: list[Callable[[Tensor], Tensor]] = [convolution(net.conv_stem, net.bn1)]
    for block in net.blocks.modules():
        if hasattr(block, "conv_pwl"):  # expand, depthwise, project
            before = [convolution(block.conv_pw, block.bn1), convolution(block.conv_dw, block.bn2)]
            steps.append(_block(before, convolution(block.conv_pwl, block.bn3), block.has_skip))
        elif hasattr(block, "conv_dw"):  # depthwise, project
            before = [convolution(block.conv_dw, block.bn1)]
            steps.append(_block(before, convolution(block.conv_pw, block.bn2), block.has_skip))
    steps.append(convolution(net.conv_head, net.bn2))

    def tower(pixels: Tensor) -> Tensor:
        x = pixels.contiguous(memory_format=torch.channels_last)
        for step in steps:
            x = step(x)
        return x.mean((2, 3))

    count = PICTURES_AT_ONCE["convolutions"]
    with torch.no_grad():
        tower(torch.zeros(count, 3, side, side))  # packs the weights
    return _few_at_once(tower, count)


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
        block.attn, block.mlp = Attention(block.attn), _feed_forward(block.mlp)  # type: ignore[arg-type]
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
        """Query ``[B, L, E]``, which key and value are too. An argument that is not known here is an error.

        Raises :class:`InputError` for another key or value, or where weights are asked for.
        """
        if need_weights or query is not key or key is not value:
            raise InputError("the engine onednn has self-attention without weights: load with engine='torch'.")
        maps = self.inputs(query).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(maps[0], maps[1], maps[2], attn_mask=attn_mask)
        return self.output(mixed.transpose(1, 2).flatten(2)), None


def _few_at_once(tower: Callable[[Tensor], Tensor], count: int) -> FastTower:
    torch.empty(LARGE_BLOCK, dtype=torch.uint8)  # given back at once: what layers write stays with the process

    def fast(pixels: Tensor) -> Tensor:
        return torch.cat([tower(few) for few in pixels.split(count)])

    return fast
