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
MACRO_F1, TOP5 = "macro_f1", "top5_accuracy"
TOP = 5
BINS = 15


def bin_of(certainty: Tensor) -> Tensor:
    """The bin of each certainty, int64: one holds its upper end."""
    return (certainty * BINS).ceil().long().clamp(1, BINS) - 1


def reliability(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """``[BINS, 3]``: of the samples of each bin of certainty their number, the sum of certainties, and how many are
    right."""
    certainty, predicted = log_probabilities.exp().max(-1)
    place = bin_of(certainty)
    each = torch.stack([torch.ones_like(certainty), certainty, (predicted == labels).double()], -1)
    return torch.zeros(BINS, 3, dtype=torch.float64).index_add(0, place, each)


def calibration_error(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Expected calibration error (arXiv 1706.04599): mean distance of certainty and accuracy, over equal bins."""
    _, certainty, right = reliability(log_probabilities, labels).T
    return (certainty - right).abs().sum() / max(len(labels), 1)


def likelihood_of(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each sample ``[n]``, in nats; a class that a method rules out costs 50."""
    return -log_probabilities[torch.arange(len(labels)), labels].clamp(min=SMALLEST_LOG_PROBABILITY)


def negative_log_likelihood(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean of :func:`likelihood_of`."""
    return likelihood_of(log_probabilities, labels).mean()


def brier_of(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of probabilities and the truth, summed over the classes, of each sample ``[n]``: 0 to 2."""
    truth = torch.nn.functional.one_hot(labels, log_probabilities.shape[-1])
    return (log_probabilities.exp() - truth).square().sum(-1)


def brier(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean of :func:`brier_of`."""
    return brier_of(log_probabilities, labels).mean()


def class_counts(predicted: Tensor, labels: Tensor, classes: int, times: Tensor | None = None) -> tuple[Tensor, ...]:
    """(right, predicted as it, labelled it): numbers of each class, float64 ``[R, C]``, of labels ``[n]``.

    times: ``[R, n]``, how often each sample counts; once by default, in one row.
    """
    times = torch.ones(1, len(labels), dtype=torch.float64) if times is None else times
    empty = times.new_zeros(len(times), classes)
    right = empty.index_add(1, labels, times * (predicted == labels))
    return right, empty.index_add(1, predicted, times), empty.index_add(1, labels, times)


def mean_f1(right: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
    """Of :func:`class_counts`, the mean F1 of the classes that there are samples of, float64 ``[R]``."""
    there = labelled > 0
    f1 = 2 * right / (predicted + labelled).clamp(min=1)
    return (f1 * there).sum(-1) / there.sum(-1).clamp(min=1)


def macro_f1(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean over the classes of the harmonic mean of precision and recall; classes without samples do not count."""
    return mean_f1(*class_counts(log_probabilities.argmax(-1), labels, log_probabilities.shape[-1]))[0]


def top5_accuracy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Share of samples whose label is among the five most probable classes: 1 where there are no more."""
    top = log_probabilities.topk(min(TOP, log_probabilities.shape[-1])).indices
    return (top == labels[:, None]).any(-1).double().mean()


# Each takes log-probabilities [n, C], float64, and labels [n] on the CPU.
MEASURES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    MAIN: accuracy,
    "calibration_error": calibration_error,
    "nll": negative_log_likelihood,
    "brier": brier,
    MACRO_F1: macro_f1,
    TOP5: top5_accuracy,
}
TITLES: Mapping[str, str] = {
    "calibration_error": "calibration error",
    ANSWERED: "accuracy of the others",
    MACRO_F1: "macro-F1",
    TOP5: "top-5 accuracy",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
}  # in tables, where it is not the name
NO_FRACTIONS = ("nll", "brier")  # which tables of fractions, in per cent, have no column for
FILES_ONLY = (*NO_FRACTIONS, MACRO_F1, TOP5)  # no columns of tables that compare methods


class Tested(NamedTuple):
    """``values``: every measure by name. ``right [n]``: whether each sample was answered rightly. ``bins``: what
    :func:`reliability` counts, as lists. ``log_probabilities``: ``[n, C]``, float64, on the CPU."""

    values: dict[str, float]
    right: Tensor
    bins: list[list[float]]
    log_probabilities: Tensor


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
    return Tested(found, certain.argmax(-1) == labels, reliability(certain, labels).tolist(), certain)
