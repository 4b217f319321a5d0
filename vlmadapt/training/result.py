"""What a training run was: its epochs and the best of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EpochRecord:
    """Mean training loss of an epoch (``None`` for epoch 0, the initial state) and its validation score."""

    epoch: int
    loss: float | None
    score: tuple[float, ...] | None


@dataclass
class TrainResult:
    """``best_epoch`` 0 is the initial state; without ``evaluate`` it is the last epoch."""

    best_epoch: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    resumed_from: int | None = None
