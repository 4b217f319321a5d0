"""Intervals of measures: they hold the truth about as often as they say, and say nothing where they cannot."""

from __future__ import annotations

import pytest
import torch

from vlmadapt.experiments.measures import calibration_error, class_counts, macro_f1, mean_f1, measure, top5_accuracy
from vlmadapt.experiments.spread import measured
from vlmadapt.provenance import bootstrap
from vlmadapt.provenance.bootstrap import interval_of, resampled


def drawn(number: int, classes: int, sharper: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a made-up classifier; its certainties are right at ``sharper`` 2.0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (number,), generator=generator)
    logits = torch.randn(number, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(number), labels] += 2.0
    return sharper * logits, labels


def test_macro_f1_is_the_mean_over_classes_that_are_there():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 3, 2])
    certain = torch.nn.functional.one_hot(predicted, 5).double().log()
    # class 0: 2 / 3 of 2; class 1: 1 of 2, 1 of 2; class 2 whole; 3 and 4 have no pictures
    assert float(macro_f1(certain, labels)) == pytest.approx((0.8 + 0.5 + 1.0) / 3)
    sklearn = pytest.importorskip("sklearn.metrics")
    of_those = sklearn.f1_score(labels, predicted, labels=[0, 1, 2], average="macro")
    assert float(macro_f1(certain, labels)) == pytest.approx(of_those)


def test_top5_is_one_where_there_are_no_more_classes():
    logits, labels = drawn(50, 5, 1.0, 0)
    assert float(top5_accuracy(logits.log_softmax(-1), labels)) == 1.0
    logits, labels = drawn(500, 20, 1.0, 0)
    ranks = (logits > logits[torch.arange(500), labels][:, None]).sum(-1)
    assert float(top5_accuracy(logits.log_softmax(-1), labels)) == float((ranks < 5).double().mean())


def test_counting_with_weights_is_counting_copies():
    logits, labels = drawn(30, 4, 1.0, 1)
    times = next(resampled(30))[:3]
    counts = class_counts(logits.argmax(-1), labels, 4, times)
    for row in range(3):
        copies = torch.arange(30).repeat_interleave(times[row].long())
        assert float(mean_f1(*counts)[row]) == pytest.approx(
            float(macro_f1(logits[copies].log_softmax(-1), labels[copies]))
        )


def test_the_basic_interval_holds_a_calibration_error_that_the_middle_of_the_draws_misses(monkeypatch):
    """Drawn anew, the pictures of a calibrated classifier are less well calibrated: all draws lie above the truth."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    logits, labels = drawn(200_000, 5, 2.0, 100)
    truth = float(calibration_error(logits.log_softmax(-1), labels))
    basic = middle = 0
    for seed in range(40):
        logits, labels = drawn(60, 5, 2.0, seed)
        tested = measure(logits, labels)
        found = {one.name: one for one in measured(tested, labels)}["calibration_error"]
        assert found.interval is not None
        basic += found.interval.low <= truth <= found.interval.high
        errors = []
        for times in resampled(60):
            for row in times.long():
                copies = torch.arange(60).repeat_interleave(row)
                errors.append(calibration_error(tested.log_probabilities[copies], labels[copies]))
        low, high = interval_of(torch.stack(errors))
        middle += low <= truth <= high
    assert basic >= 36 and middle <= 8


def test_without_a_mistake_macro_f1_has_no_interval_but_accuracy_has():
    labels = torch.arange(6).repeat(4)
    tested = measure(10 * torch.nn.functional.one_hot(labels).double(), labels)
    found = {one.name: one for one in measured(tested, labels)}
    assert found["macro_f1"].interval is None and found["macro_f1"].value == 1
    for name in ("accuracy", "top5_accuracy"):
        interval = found[name].interval
        assert interval is not None and interval.low < 1 == interval.high


def test_intervals_are_the_same_at_every_call_and_hold_what_was_found():
    logits, labels = drawn(80, 7, 1.0, 3)
    first, second = (measured(measure(logits, labels, least_certainty=0.5), labels) for _ in range(2))
    assert first == second and next(one.name for one in first) == "accuracy"
    for one in first:
        assert one.interval is not None and one.interval.low <= one.value <= one.interval.high
