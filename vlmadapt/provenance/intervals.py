"""How far an accuracy may lie from that on all pictures of its kind: the interval of its test set."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95
NAME = "Wilson, 95 %"


class Interval(NamedTuple):
    """Two fractions."""

    low: float
    high: float

    def __str__(self) -> str:
        """In per cent, as in tables."""
        return f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(share: float, number: int) -> Interval:
    """The score interval at ``LEVEL`` of a ``share`` seen in ``number`` trials (Wilson 1927, without correction).

    Of the mean accuracy of several fits on the same pictures, ``number`` is that of the pictures: they are not tried
    anew. Without any trial it is all of 0 to 1.
    """
    if number == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(share * (1 - share) / number + (z / (2 * number)) ** 2)
    # Rounding must not leave out what was seen.
    return Interval(max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))
