"""The NaN guard: training stops at the first NaN or infinity, and says which tensor holds it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vlmadapt.errors import VlmadaptError, all_finite
from vlmadapt.training.result import TrainResult


class TrainingDiverged(VlmadaptError):
    """A loss, parameter, gradient or validation score became NaN or infinite.

    ``tensor`` is its name (``"loss"``, ``"parameter keys"``, ``"gradient of keys"``, ``"validation score"``).
    The module holds its best state so far, ``result`` the finished epochs; the last checkpoint is untouched.
    """

    def __init__(self, tensor: str, epoch: int, step: int, result: TrainResult):
        self.tensor, self.epoch, self.step, self.result = tensor, epoch, step, result
        super().__init__(
            f"{tensor} became NaN or infinite at epoch {epoch}, step {step}: the state of epoch "
            f"{result.best_epoch} is restored; lower the learning rate, or set grad_clip or amp=False."
        )


def _first_bad(named: Iterable[tuple[str, Tensor]], prefix: str) -> str | None:
    for name, tensor in named:
        if not all_finite(tensor):
            return f"{prefix} {name}"
    return None


def bad_parameter(module: nn.Module) -> str | None:
    """``"parameter NAME"`` of the first parameter with a NaN or infinity, else ``None``."""
    return _first_bad(((name, tensor.detach()) for name, tensor in module.named_parameters()), "parameter")


def bad_loss(module: nn.Module, loss: Tensor) -> str | None:
    """``None`` for a finite loss; else the parameter that spoilt it, or ``"loss"`` when all parameters are sound."""
    if all_finite(loss):
        return None
    return bad_parameter(module) or "loss"


def bad_gradient(module: nn.Module, total_norm: Tensor) -> str | None:
    """``None`` when the gradient's norm is finite, else the first gradient that is not (or the norm itself)."""
    if bool(torch.isfinite(total_norm)):
        return None
    gradients = ((name, tensor.grad) for name, tensor in module.named_parameters() if tensor.grad is not None)
    return _first_bad(gradients, "gradient of") or "gradient norm"
