"""Differences of accuracy between methods on the same pictures and seeds, and how sure they are.

    gain   = mean over seeds s and test pictures i of right_method[s, i] - right_reference[s, i]

Its interval is that of :mod:`vlmadapt.provenance.bootstrap`, over pictures and seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlmadapt.provenance.intervals import Interval

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
