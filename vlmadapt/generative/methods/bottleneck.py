"""``Up(ReLU(Down(x)))`` (arXiv 1902.00751)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.generative.models.sites import Attaching
from vlmadapt.training.layers import empty_linear, set_uniform


class Bottleneck(nn.Module):
    """``Up(ReLU(Down(x)))`` on the last axis, which is ``size`` long; zero at first, since ``Up`` is (ours)."""

    def __init__(self, size: int, width: int, dtype: torch.dtype, generator: torch.Generator) -> None:
        super().__init__()
        self.down, self.up = empty_linear(size, width, dtype), empty_linear(width, size, dtype)
        set_uniform(self.down, generator)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x).relu())


def put_behind(attached: Attaching, owner: nn.Module, module: nn.Module, child: str, adapter: Bottleneck) -> None:
    """``h <- h + adapter(h)`` of what ``module`` puts out, its first output of several; a child of ``owner``."""
    attached.add_module(owner, child, adapter)
    attached.on_detach(module.register_forward_hook(partial(_through, adapter)).remove)


def _through(adapter: Bottleneck, module: Any, inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):  # nn.MultiheadAttention gives its weights too
        return (_through(adapter, module, inputs, output[0]), *output[1:])
    return output + adapter(output)
