"""Differences of accuracy between methods on the same pictures and seeds, and how sure they are.

    gain   = mean over seeds s and test pictures i of right_method[s, i] - right_reference[s, i]
    drawn  = the same mean over seeds and pictures drawn anew, each with replacement and apart from one another
    [low, high] = the middle 95 % of 2,000 drawn        pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007

It is a little too wide rather than too narrow. Of one seed, only pictures are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlmadapt.provenance.intervals import LEVEL, Interval

RESAMPLES = 2000
AT_ONCE = 2**22  # numbers of pictures drawn at a time, for memory
NAME = "bootstrap over pictures and seeds, 95 %"


@dataclass(frozen=True)
class Gain:
    """Accuracy of ``method`` less that of ``reference``: a fraction, over ``seeds`` that both have.

    ``interval`` is None for results that did not keep which pictures were right.
    """

    method: str
    reference: str
    shots: int
    tested_on: str | None
    seeds: int
    mean: float
    interval: Interval | None


def drawn(values: Tensor, seed: int = 0) -> Tensor:
    """``[..., RESAMPLES]``: means of ``values [..., S, n]`` over seeds and pictures drawn anew.

    The draws are the same for all values of one shape, so that the difference of two is the draw of their difference.
    """
    seeds, pictures = values.shape[-2:]
    random = np.random.default_rng(seed)
    found = []
    for start in range(0, RESAMPLES, step := max(1, AT_ONCE // pictures)):
        count = min(step, RESAMPLES - start)
        drawn = torch.from_numpy(random.multinomial(pictures, np.full(pictures, 1 / pictures), count)).double()
        by_seed = values.double() @ drawn.T / pictures  # [..., S, count]
        weights = torch.from_numpy(random.multinomial(seeds, np.full(seeds, 1 / seeds), count)).double()
        found.append((by_seed * weights.T).sum(-2) / seeds)
    return torch.cat(found, -1)


def interval_of(means: Tensor) -> Interval:
    """The middle share ``LEVEL`` of what was drawn."""
    tail = (1 - LEVEL) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low, high)
