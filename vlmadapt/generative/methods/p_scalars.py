"""p and mu of a p-adapter as they are trained: two numbers an attention, kept in their ranges. The ranges are ours."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.generative.methods.p_config import PAdapterConfig


class PScalars(nn.Module):
    """``raw_p`` and ``theta``, from which p and mu are made; never below float32.

    pulled: whether there is a residual at all; without one mu is 0 and not trained.
    """

    def __init__(self, config: PAdapterConfig, dtype: torch.dtype, pulled: bool = True) -> None:
        super().__init__()
        self.config = config
        scalars = torch.promote_types(dtype, torch.float32)
        raw = torch.tensor(_unmapped(config), dtype=scalars) if config.learn_p else None
        self.raw_p = None if raw is None else nn.Parameter(raw)
        self.theta = nn.Parameter(torch.zeros((), dtype=scalars)) if pulled else None

    def p(self) -> Tensor | float:
        """p as it is now: a 0-d tensor, or the fixed number."""
        if self.raw_p is None:
            return self.config.initial_p
        raw = _at_least_float(self.raw_p)
        if self.config.p_range == "free":
            return raw.clamp(min=1)
        if self.config.from_frozen:
            return 1 + (_folded(raw - 1) if self.config.p_range == "one-to-two" else _absolute(raw - 1))
        return 1 + (torch.sigmoid(raw) if self.config.p_range == "one-to-two" else F.softplus(raw))

    def mu(self) -> Tensor | float:
        """mu as it is now, a 0-d tensor: between mu0 and 3 mu0, or from 0 to 3 mu0; the number 0 without a residual."""
        if self.theta is None:
            return 0.0
        theta = _at_least_float(self.theta)
        if self.config.from_frozen:
            return 3 * self.config.initial_mu * torch.tanh(_absolute(theta))
        return self.config.initial_mu * (2 + torch.tanh(theta))


def _at_least_float(x: Tensor) -> Tensor:
    """Half precision has too few digits for p, should the whole model have been cast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _absolute(x: Tensor) -> Tensor:
    """``|x|`` with a slope of 1 at 0: what starts there must be able to leave."""
    return torch.where(x < 0, -x, x)


def _folded(x: Tensor) -> Tensor:
    """To [0, 1] by reflection at its ends, which are reached and left again."""
    x = torch.remainder(x, 2)
    return torch.where(x > 1, 2 - x, x)


def _unmapped(config: PAdapterConfig) -> float:
    """The trained number from which :meth:`PScalars.p` makes the initial p."""
    if config.p_range == "free" or config.from_frozen:
        return config.initial_p
    above = config.initial_p - 1
    return math.log(above / (1 - above)) if config.p_range == "one-to-two" else math.log(math.expm1(above))
