"""How long a study will take, by fits that were timed: its smallest and largest numbers of shots, one seed.

A fit at another number of shots is taken to lie on the line between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

NIGHT = 8.0  # hours


class Timed(NamedTuple):
    """Seconds of one fit of a method, at the fewest and the most shots of a study."""

    least: float
    most: float


def ends(shots: Sequence[int]) -> tuple[int, ...]:
    """The numbers of shots to time."""
    return tuple(dict.fromkeys((min(shots), max(shots))))


def seconds(timed: Timed, shots: Sequence[int], seeds: int) -> float:
    """Of all fits of one method."""
    low, high = min(shots), max(shots)
    slope = (timed.most - timed.least) / (high - low) if high > low else 0.0
    return seeds * sum(timed.least + slope * (count - low) for count in shots)


def described(name: str, timed: Mapping[str, Timed], shots: Sequence[int], seeds: int) -> tuple[str, float]:
    """A line about a study with its slowest methods, and its hours."""
    each = {method: seconds(found, shots, seeds) / 3600 for method, found in timed.items()}
    slowest = sorted(each.items(), key=lambda item: -item[1])[:3]
    hours = sum(each.values())
    return f"{name}: {hours:.2f} h of fits ({', '.join(f'{method} {part:.2f}' for method, part in slowest)})", hours
