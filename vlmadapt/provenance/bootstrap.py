"""Means over seeds and test records drawn anew: how sure a difference on the same of both is.

    drawn       = mean over seeds s and records i of value[s, i], both drawn anew, with replacement and apart
    [low, high] = the middle 95 % of 2,000 drawn        pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007

It is a little too wide rather than too narrow. Of one seed, only records are drawn.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlmadapt.provenance.intervals import LEVEL, Interval

RESAMPLES = 2000
AT_ONCE = 2**22  # numbers of records drawn at a time, for memory


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
