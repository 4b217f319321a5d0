"""Hyper-parameters chosen on validation samples only. Nothing here ever sees a test sample.

A few-shot validation split is tiny (four pictures a class), so that many settings tie and single winners are noise.
The rules, all ours: accuracies of a grid are averaged with their neighbours before the maximum is taken; ties go to
the larger log-likelihood, then to the earlier candidate. Callers list candidates with the preferred ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from vlmadapt.errors import InputError

Candidate = TypeVar("Candidate")

# A probability of exactly zero (a class the method cannot predict) costs this much, not infinity.
SMALLEST_LOG_PROBABILITY = -50.0


def log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each of ``labels [B]`` under softmax of ``logits [..., B, C]``: float64 ``[..., B]``."""
    chosen = logits.double().log_softmax(-1)[..., torch.arange(len(labels)), labels]
    return chosen.clamp(min=SMALLEST_LOG_PROBABILITY)


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean log-probability of ``labels [B]`` under softmax of ``logits [..., B, C]``: float64 ``[...]``."""
    return log_probabilities(logits, labels).mean(-1)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of ``labels [B]`` met by the largest of ``logits [..., B, C]``: float64 ``[...]``."""
    return (logits.argmax(-1) == labels).double().mean(-1)


def score_logits(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """``(accuracy, mean log-likelihood)`` of ``logits [B, C]``: what epochs and candidates are compared by."""
    return float(accuracy(logits, labels)), float(log_likelihood(logits, labels))


def choose(candidates: Sequence[Candidate], score: Callable[[Candidate], tuple[float, ...]]) -> Candidate:
    """The candidate with the largest score; ties go to the earlier one. :class:`InputError` without candidates."""
    if not candidates:
        raise InputError("candidates is empty: give at least one value to choose from.")
    return max(candidates, key=score)  # max() keeps the first of equals.


def log_grid(low: float, high: float, steps: int) -> Tensor:
    """``steps`` values from ``low`` to ``high`` in equal ratios: float64 ``[steps]``."""
    return torch.logspace(0.0, 1.0, steps, base=high / low, dtype=torch.float64) * low


def smoothed_hits(grid_accuracy: Tensor, samples: int) -> Tensor:
    """Sum of right answers over each cell's 3 x 3 neighbourhood in ``grid_accuracy [G, A]``: float64 ``[G, A]``.

    ``samples`` is the number of validation samples behind each accuracy: counts are summed, so that ties are exact.
    Raises :class:`InputError` unless it is a matrix that is not empty.
    """
    if grid_accuracy.dim() != 2 or grid_accuracy.numel() == 0:
        raise InputError(f"grid_accuracy has shape {list(grid_accuracy.shape)}: give a non-empty matrix.")
    hits = (grid_accuracy.double() * samples).round()
    padded = torch.nn.functional.pad(hits[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    return padded.unfold(0, 3, 1).unfold(1, 3, 1).sum((-1, -2))


def choose_in_grid(
    grid_accuracy: Tensor, samples: int, tie_break: Callable[[Tensor, Tensor], Tensor] | None = None
) -> tuple[int, int]:
    """The cell of ``grid_accuracy [G, A]`` whose 3 x 3 neighbourhood is the most accurate on average.

    ``tie_break(g, a)`` scores all tied cells at once (int64 ``[T]`` each -> ``[T]``, larger wins); what still ties goes
    to the smaller ``g``, then ``a``. It is not asked about a single cell.
    """
    around = smoothed_hits(grid_accuracy, samples)
    g, a = torch.nonzero(around == around.max(), as_tuple=True)
    best = 0 if tie_break is None or len(g) == 1 else int(torch.argmax(tie_break(g, a)))
    return int(g[best]), int(a[best])
