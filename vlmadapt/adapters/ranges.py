"""Ranges that hyper-parameters are searched in, and what is done where the best lies on an edge. Ours."""

from __future__ import annotations

import math

from vlmadapt.config import MOST_STEPS

Range = tuple[float, float, int]  # low, high, steps in equal ratios
WIDENINGS = 3  # of a fit, at most
WIDEST = (1e-2, 1e4)  # beyond, exp(-beta (1 - s)) and sums under a large alpha are lost in the rounding of float32


def on_edge(value: float, searched: Range) -> bool:
    """Whether ``value`` is an end of a range of several steps."""
    low, high, steps = searched
    return steps > 1 and any(math.isclose(value, edge, rel_tol=1e-6) for edge in (low, high))


def wider(searched: Range, value: float) -> Range:
    """The range half as wide again (of its logarithm) beyond the edge that ``value`` lies on, its steps as fine.

    By as many of these steps as stay within ``WIDEST``: unchanged where that is none.
    """
    low, high, steps = searched
    if low >= high:
        return searched
    step, down = math.log(high / low) / (steps - 1), math.isclose(value, low, rel_tol=1e-6)
    room = math.log(low / WIDEST[0]) if down else math.log(WIDEST[1] / high)
    more = min(max((steps - 1) // 2, 1), math.floor(room / step + 1e-9), MOST_STEPS - steps)
    if more < 1:
        return searched
    beyond = math.exp(more * step)
    return (low / beyond, high, steps + more) if down else (low, high * beyond, steps + more)
