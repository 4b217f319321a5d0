"""One temperature that makes the certainty of logits mean something. Ours, after arXiv 1706.04599."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.training.selection import SMALLEST_LOG_PROBABILITY, log_grid

BY_CHANCE = 0.25  # of a sample
MOST_KEPT = 1001  # certainties
TEMPERATURES = log_grid(0.02, 50.0, 69).tolist()  # steps of 12 %


def best_temperature(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    """The temperature of largest likelihood of ``labels [b]`` under ``logits [b, C]``, one of each a tile.

    A quarter of a sample more, of a label drawn by chance, counts too (a rule of succession): where all of a few
    samples are right, the certainty stays below what they can tell.
    """
    count = sum(map(len, labels))
    likelihood = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    for part, right in zip(logits, labels, strict=True):
        rows = torch.arange(len(right))
        for place, temperature in enumerate(TEMPERATURES):
            chances = (part.double() / temperature).log_softmax(-1).clamp(min=SMALLEST_LOG_PROBABILITY)
            likelihood[place] += float(chances[rows, right].sum()) + BY_CHANCE * float(chances.mean(-1).sum()) / count
    return TEMPERATURES[int(likelihood.argmax())]


def certainties(logits: Sequence[Tensor], temperature: float = 1.0) -> tuple[float, ...]:
    """The largest probability of each row of ``logits``, tiles ``[b, C]``, ascending; of many rows quantiles."""
    found = [(part.double() / temperature).softmax(-1).max(-1).values for part in logits]
    if not found:
        return ()
    ordered = torch.cat(found).sort().values
    if len(ordered) > MOST_KEPT:
        ordered = ordered[torch.linspace(0, len(ordered) - 1, MOST_KEPT).long()]
    return tuple(ordered.tolist())


def threshold(certainties: Sequence[float], rate: float) -> float:
    """The certainty that at most a share ``rate`` of those ascending ``certainties`` lies below."""
    return certainties[min(int(rate * len(certainties)), len(certainties) - 1)]
