"""Small trainable layers, initialised from a generator of their own: the global random state is never drawn from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def empty_linear(width_in: int, width_out: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    """A linear layer whose weights are set later."""
    return torch.nn.utils.skip_init(nn.Linear, width_in, width_out, bias=bias, dtype=dtype)


@torch.no_grad()
def set_identity(layer: nn.Linear, generator: torch.Generator) -> None:
    """Identity where the widths agree, else a random orthogonal map; bias zero."""
    if layer.in_features == layer.out_features:
        nn.init.eye_(layer.weight)
    else:
        # Drawn in float64 on the CPU, so that every dtype and device starts from the same map.
        drawn = torch.empty(layer.weight.shape, dtype=torch.float64)
        nn.init.orthogonal_(drawn, generator=generator)
        layer.weight.copy_(drawn)
    nn.init.zeros_(layer.bias)


@torch.no_grad()
def set_uniform(layer: nn.Linear, generator: torch.Generator) -> None:
    """PyTorch's own initialisation of a linear layer, uniform within ``1 / sqrt(in_features)``; bias zero."""
    bound = layer.in_features**-0.5
    drawn = torch.empty(layer.weight.shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator)
    layer.weight.copy_(drawn)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Projection(nn.Module):
    """``linear(x)``, or with ``hidden`` the small MLP ``linear(x) + up(relu(down(x)))`` whose ``up`` starts at zero.

    Both start as the identity (orthogonal where the widths differ).
    """

    def __init__(self, width_in: int, width_out: int, hidden: int | None, dtype: torch.dtype):
        super().__init__()
        self.linear = empty_linear(width_in, width_out, dtype)
        self.down = None if hidden is None else empty_linear(width_in, hidden, dtype)
        self.up = None if hidden is None else empty_linear(hidden, width_out, dtype)

    def reset(self, generator: torch.Generator) -> None:
        set_identity(self.linear, generator)
        if self.down is not None and self.up is not None:
            set_uniform(self.down, generator)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if self.down is not None and self.up is not None:
            y = y + self.up(torch.relu(self.down(x)))
        return y
