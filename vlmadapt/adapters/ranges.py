"""Ranges that hyper-parameters are searched in, and what is done where the best lies on an edge. Ours."""

from __future__ import annotations

import math

from vlmadapt.config import GRID_RANGE, MOST_STEPS

Range = tuple[float, float, int]  # low, high, steps in equal ratios
WIDENINGS = 3  # of a search, at most


def on_edge(value: float, searched: Range) -> bool:
    """Whether ``value`` is an end of a range of several steps."""
    low, high, steps = searched
    return steps > 1 and any(math.isclose(value, edge, rel_tol=1e-6) for edge in (low, high))


def wider(searched: Range, value: float) -> Range:
    """The range half as wide again (of its logarithm) beyond the edge that ``value`` lies on, its steps as fine.

    Unchanged where that would leave what numbers of a search may be.
    """
    low, high, steps = searched
    more = max((steps - 1) // 2, 1)
    beyond = (high / low) ** (more / (steps - 1))
    found = (low / beyond, high) if math.isclose(value, low, rel_tol=1e-6) else (low, high * beyond)
    fits = GRID_RANGE[0] <= found[0] and found[1] <= GRID_RANGE[1] and steps + more <= MOST_STEPS
    return (*found, steps + more) if fits and low < high else searched
