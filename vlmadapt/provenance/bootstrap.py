"""Means over seeds and test records drawn anew: how sure a difference on the same of both is.

    drawn       = mean over seeds s and records i of value[s, i], both drawn anew, with replacement and apart
    [low, high] = the middle 95 % of 2,000 drawn        pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007

It is a little too wide rather than too narrow. Of one seed, only records are drawn. What is no mean of records, as a
calibration error, is biased, and drawn anew biased again, so that its interval is laid the other way round:

    [low, high] = 2 found - the middle 95 % of drawn     basic bootstrap: Davison and Hinkley, 1997, section 5.2
"""

from __future__ import annotations

from collections.abc import Iterator

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
    for times in _resampled(pictures, random):
        by_seed = values.double() @ times.T / pictures  # [..., S, count]
        weights = torch.from_numpy(random.multinomial(seeds, np.full(seeds, 1 / seeds), len(times))).double()
        found.append((by_seed * weights.T).sum(-2) / seeds)
    return torch.cat(found, -1)


def resampled(records: int, seed: int = 0) -> Iterator[Tensor]:
    """How often each record is drawn, float64 ``[count, records]``, ``RESAMPLES`` rows in parts that fit memory."""
    return _resampled(records, np.random.default_rng(seed))


def _resampled(records: int, random: np.random.Generator) -> Iterator[Tensor]:
    for start in range(0, RESAMPLES, step := max(1, AT_ONCE // records)):
        count = min(step, RESAMPLES - start)
        yield torch.from_numpy(random.multinomial(records, np.full(records, 1 / records), count)).double()


def interval_of(means: Tensor) -> Interval:
    """The middle share ``LEVEL`` of what was drawn."""
    tail = (1 - LEVEL) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low, high)


def basic_interval_of(found: float, drawn: Tensor, least: float, most: float) -> Interval:
    """The basic interval of a figure in [least, most] that was ``found``, and found ``[n]`` times of what was drawn.

    It holds what was found, which a figure at an end of what is possible can miss.
    """
    low, high = interval_of(drawn)
    return Interval(max(min(2 * found - high, found), least), min(max(2 * found - low, found), most))
