"""``Up(ReLU(Down(x)))`` (arXiv 1902.00751)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
