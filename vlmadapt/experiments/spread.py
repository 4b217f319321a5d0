"""How sure each measure of one classifier is: by Wilson where it is a share of pictures, else by a bootstrap over them.

Macro-F1, the calibration error and the means that are no shares take the basic interval of
:mod:`vlmadapt.provenance.bootstrap`. Few pictures of a calibrated classifier have a calibration error well above 0, and
so has all that is drawn of them: where 2.5 % or more of what a calibrated one of these certainties would show (Bröcker
and Smith, Weather and Forecasting 22, 2007) is as large, the interval begins at 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vlmadapt.experiments.measures import (
    ANSWERED,
    BINS,
    MACRO_F1,
    NO_FRACTIONS,
    TOP,
    TOP5,
    Tested,
    bin_of,
    brier_of,
    class_counts,
    likelihood_of,
    mean_f1,
)
from vlmadapt.provenance.bootstrap import basic_interval_of, interval_of, resampled
from vlmadapt.provenance.intervals import NAME as WILSON
from vlmadapt.provenance.intervals import Interval, wilson

BOOTSTRAP = "basic bootstrap over pictures, 95 %"
ERROR = "calibration_error"
MOST = {MACRO_F1: 1.0, ERROR: 1.0, "brier": 2.0}


class Measured(NamedTuple):
    """One measure of a classifier; ``interval`` is None where its pictures do not tell, ``by`` says what found it."""

    name: str
    value: float
    interval: Interval | None
    by: str


def measured(tested: Tested, labels: Tensor) -> list[Measured]:
    """Every measure of ``tested`` pictures with its interval, in their order.

    Without a mistake a bootstrap finds none in what it draws, whatever others would hold: macro-F1 has no interval
    then. Top-5 accuracy of five classes or fewer, which is 1, is left out.
    """
    number, classes = tested.log_probabilities.shape
    answered = round(number * (1 - tested.values.get("abstained", 0.0)))
    drawn = _drawn(tested, labels.cpu())
    found = []
    for name, value in tested.values.items():
        if name == TOP5 and classes <= TOP:
            continue
        if name in drawn:
            sure = name == MACRO_F1 and bool(tested.right.all())
            interval = None if sure else basic_interval_of(value, drawn[name], 0.0, MOST.get(name, math.inf))
            if name == ERROR and interval is not None and value <= interval_of(_calibrated(tested)).high:
                interval = Interval(0.0, interval.high)
            found.append(Measured(name, value, interval, "" if sure else BOOTSTRAP))
        else:
            found.append(Measured(name, value, wilson(value, answered if name == ANSWERED else number), WILSON))
    return found


def _drawn(tested: Tested, labels: Tensor) -> dict[str, Tensor]:
    """Measures that are no shares of pictures, ``[RESAMPLES]`` each, on pictures drawn anew."""
    certain = tested.log_probabilities
    certainty, predicted = certain.exp().max(-1)
    place, excess = bin_of(certainty), certainty - tested.right.double()
    each = torch.stack([likelihood_of(certain, labels), brier_of(certain, labels)])
    parts: dict[str, list[Tensor]] = {MACRO_F1: [], ERROR: [], **{name: [] for name in NO_FRACTIONS}}
    for times in resampled(len(labels)):
        parts[MACRO_F1].append(mean_f1(*class_counts(predicted, labels, certain.shape[-1], times)))
        parts[ERROR].append(_error(place, times * excess))
        for name, mean in zip(NO_FRACTIONS, each @ times.T / len(labels), strict=True):
            parts[name].append(mean)
    return {name: torch.cat(part) for name, part in parts.items()}


def _error(place: Tensor, excess: Tensor) -> Tensor:
    """Calibration errors ``[R]`` of ``excess [R, n]``, certainties less right answers in the bins ``place [n]``."""
    bins = excess.new_zeros(len(excess), BINS).index_add(1, place, excess)
    return bins.abs().sum(-1) / len(place)


def _calibrated(tested: Tested) -> Tensor:
    """Calibration errors ``[RESAMPLES]`` of classifiers that are right as often as they are certain."""
    certainty = tested.log_probabilities.exp().max(-1).values
    place, random = bin_of(certainty), torch.Generator().manual_seed(0)
    return torch.cat(
        [
            _error(place, certainty - (torch.rand(times.shape, generator=random) < certainty).double())
            for times in resampled(len(certainty))
        ]
    )
