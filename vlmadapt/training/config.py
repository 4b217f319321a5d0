"""What a training run needs to know, apart from the data and the seed."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, fields
from typing import Any

from vlmadapt.config import read_switches
from vlmadapt.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimiser and schedule of :func:`~vlmadapt.training.fit_loop`; frozen, checked on construction.

    Raises :class:`InputError` naming the field that is out of range.
    """

    epochs: int = field(default=20, metadata={"help": "passes over the training samples; 0 keeps the initial state"})
    batch_size: int = field(default=256, metadata={"help": "samples a step"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    weight_decay: float = field(default=0.01, metadata={"help": "decoupled weight decay of AdamW"})
    adam_eps: float = field(default=1e-8, metadata={"help": "AdamW's epsilon; large values damp the first steps"})
    warmup_fraction: float = field(
        default=0.05, metadata={"help": "share of all steps with linearly rising learning rate, before the cosine"}
    )
    grad_clip: float | None = field(
        default=1.0, metadata={"help": "largest L2 norm of the whole gradient; none for no clipping"}
    )
    amp: bool = field(default=False, metadata={"help": "compute the loss under bfloat16 autocast"})

    def __post_init__(self) -> None:
        read_switches(self)
        check_range(self, "epochs", low=0)
        check_range(self, "batch_size", low=1)
        check_range(self, "lr", low=0.0, low_allowed=False)
        check_range(self, "weight_decay", low=0.0)
        check_range(self, "adam_eps", low=0.0, low_allowed=False)
        check_range(self, "warmup_fraction", low=0.0, high=1.0)
        if self.grad_clip is not None:
            check_range(self, "grad_clip", low=0.0, low_allowed=False)

    def train_fields(self) -> dict[str, object]:
        """The fields of this class alone, also when a method's configuration inherits from it."""
        return {entry.name: getattr(self, entry.name) for entry in fields(TrainConfig)}


def check_range(
    config: Any, name: str, *, low: float = -math.inf, high: float = math.inf, low_allowed: bool = True
) -> None:
    """Raise :class:`InputError` unless ``low <= config.name <= high`` (``low < ...`` without ``low_allowed``).

    A field of the dataclass ``config`` that is annotated ``int`` must be whole.
    """
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{type(config).__name__}.{name} is {value!r}: give a number.")
    kind = next(str(entry.type) for entry in fields(config) if entry.name == name)
    if kind.startswith("int") and not isinstance(value, int):
        raise InputError(f"{type(config).__name__}.{name} is {value!r}: give a whole number.")
    inside = (low <= value if low_allowed else low < value) and value <= high and abs(value) <= sys.float_info.max
    if inside:
        return
    lower = f"{'at least' if low_allowed else 'more than'} {low:g}"
    wanted = lower if math.isinf(high) else f"{lower} and at most {high:g}"
    raise InputError(f"{type(config).__name__}.{name} is {value!r}: give a finite number, {wanted}.")
