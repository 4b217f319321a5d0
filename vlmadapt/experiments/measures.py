"""What is measured on test pictures: a further measure is one more entry here, and in every file and table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vlmadapt.training import accuracy
from vlmadapt.training.selection import SMALLEST_LOG_PROBABILITY

MAIN = "accuracy"  # the measure of curves and differences
ANSWERED = "answered_accuracy"  # on pictures that were not taken for none of the classes
BINS = 15


def reliability(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """``[BINS, 3]``: of the samples of each bin of certainty their number, the sum of certainties, and how many are
    right."""
    certainty, predicted = log_probabilities.exp().max(-1)
    place = (certainty * BINS).ceil().long().clamp(1, BINS) - 1  # a bin holds its upper end
    each = torch.stack([torch.ones_like(certainty), certainty, (predicted == labels).double()], -1)
    return torch.zeros(BINS, 3, dtype=torch.float64).index_add(0, place, each)


def calibration_error(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Expected calibration error (arXiv 1706.04599): mean distance of certainty and accuracy, over equal bins."""
    _, certainty, right = reliability(log_probabilities, labels).T
    return (certainty - right).abs().sum() / max(len(labels), 1)


def negative_log_likelihood(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean, in nats; a class that a method rules out costs 50."""
    return -log_probabilities[torch.arange(len(labels)), labels].clamp(min=SMALLEST_LOG_PROBABILITY).mean()


def brier(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean squared distance of probabilities and the truth, summed over the classes: 0 to 2."""
    truth = torch.nn.functional.one_hot(labels, log_probabilities.shape[-1])
    return (log_probabilities.exp() - truth).square().sum(-1).mean()


# Each takes log-probabilities [n, C], float64, and labels [n] on the CPU.
MEASURES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    MAIN: accuracy,
    "calibration_error": calibration_error,
    "nll": negative_log_likelihood,
    "brier": brier,
}
TITLES: Mapping[str, str] = {
    "calibration_error": "calibration error",
    ANSWERED: "accuracy of the others",
}  # in tables, where it is not the name
FILES_ONLY = ("nll", "brier")  # no fractions, which tables show in per cent


class Tested(NamedTuple):
    """``values``: every measure by name. ``right [n]``: whether each sample was answered rightly. ``bins``: what
    :func:`reliability` counts, as lists."""

    values: dict[str, float]
    right: Tensor
    bins: list[list[float]]


def measure(logits: Tensor, labels: Tensor, temperature: float = 1.0, least_certainty: float | None = None) -> Tested:
    """Every measure of ``logits [n, C]`` over ``temperature`` against ``labels [n]``.

    With ``least_certainty`` also the share of samples less certain, and the accuracy of the others (1 without any).
    """
    certain = (logits.double().cpu() / temperature).log_softmax(-1)
    labels = labels.cpu()
    found = {name: float(of(certain, labels)) for name, of in MEASURES.items()}
    if least_certainty is not None:
        answered = certain.max(-1).values.exp() >= least_certainty
        found["abstained"] = 1 - float(answered.double().mean())
        found[ANSWERED] = float(accuracy(certain[answered], labels[answered])) if answered.any() else 1.0
    return Tested(found, certain.argmax(-1) == labels, reliability(certain, labels).tolist())
