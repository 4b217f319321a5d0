"""Parameter groups with their own learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vlmadapt.errors import InputError
from vlmadapt.training.config import TrainConfig


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that train differently.

    ``names`` are parameter names of the module, or submodule names (``"gate"`` covers ``gate.weight``).
    ``lr`` and ``weight_decay`` default to those of the :class:`TrainConfig`.
    """

    names: tuple[str, ...]
    lr: float | None = None
    weight_decay: float | None = None

    def covers(self, parameter_name: str) -> bool:
        """Whether the parameter is one of the group's, or lies below one of its modules."""
        return any(parameter_name == name or parameter_name.startswith(f"{name}.") for name in self.names)


def optimizer_groups(
    module: nn.Module, config: TrainConfig, groups: Sequence[ParameterGroup] = ()
) -> list[dict[str, Any]]:
    """AdamW groups of the trainable parameters; the first group that covers a name takes it, the rest use ``config``.

    ``base_lr`` is kept in each group, since the schedule overwrites ``lr``. Raises :class:`InputError` when nothing
    is trainable or a group covers nothing.
    """
    remaining = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
    if not remaining:
        raise InputError(f"{type(module).__name__} has no trainable parameter: set requires_grad on those to train.")
    made = []
    for group in groups:
        names = [name for name in remaining if group.covers(name)]
        if not names:
            raise InputError(f"parameter group {group.names} matches no trainable parameter: use {list(remaining)}.")
        made.append(_group(names, [remaining.pop(name) for name in names], group, config))
    if remaining:
        made.append(_group(list(remaining), list(remaining.values()), ParameterGroup(()), config))
    return made


def _group(
    names: list[str], parameters: list[nn.Parameter], group: ParameterGroup, config: TrainConfig
) -> dict[str, Any]:
    lr = config.lr if group.lr is None else group.lr
    weight_decay = config.weight_decay if group.weight_decay is None else group.weight_decay
    return {"params": parameters, "names": names, "lr": lr, "base_lr": lr, "weight_decay": weight_decay}
