"""One temperature that makes the certainty of logits mean something. Ours, after arXiv 1706.04599."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.training.selection import SMALLEST_LOG_PROBABILITY, log_grid

BY_CHANCE = 0.25  # of a sample
MOST_KEPT = 1001  # certainties
TEMPERATURES = log_grid(0.02, 50.0, 69).tolist()  # steps of 12 %
FURTHER = 2500.0  # where the largest is best, those so many times as large are looked at too


def best_temperature(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    """The temperature of largest likelihood of ``labels [b]`` under ``logits [b, C]``, one of each a tile.

    A quarter of a sample more, of a label drawn by chance, counts too (a rule of succession): where all of a few
    samples are right, the certainty stays below what they can tell.
    """
    count = sum(map(len, labels))
    temperatures = TEMPERATURES
    spread = max((float(part.amax(-1).sub(part.amin(-1)).max()) for part in logits if len(part)), default=0.0)
    while True:
        likelihood = torch.zeros(len(temperatures), dtype=torch.float64)
        for part, right in zip(logits, labels, strict=True):
            rows = torch.arange(len(right))
            for place, temperature in enumerate(temperatures):
                chances = (part.double() / temperature).log_softmax(-1).clamp(min=SMALLEST_LOG_PROBABILITY)
                by_chance = BY_CHANCE * float(chances.mean(-1).sum()) / count
                likelihood[place] += float(chances[rows, right].sum()) + by_chance
        best = temperatures[int(likelihood.argmax())]
        if best < temperatures[-1] or best > spread:  # beyond, all classes are alike, and rounding would order them
            return best
        temperatures = [FURTHER * temperature for temperature in temperatures]  # the first is the last one again


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
