"""Validation-only selection: scores, ties, smoothing."""

from __future__ import annotations

import math

import pytest
import torch

from vlmadapt.errors import InputError
from vlmadapt.training import (
    accuracy,
    choose,
    choose_in_grid,
    fingerprint_tensors,
    log_grid,
    log_likelihood,
    score_logits,
)


def test_scores_equal_a_loop():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    hits, total = 0, 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        hits += row.index(max(row)) == label
        total += row[label] - math.log(sum(math.exp(value) for value in row))
    assert score_logits(logits, labels) == pytest.approx((hits / 7, total / 7))
    assert accuracy(torch.stack([logits, -logits]), labels).shape == (2,)


def test_impossible_class_costs_a_finite_amount():
    logits = torch.tensor([[0.0, -math.inf]])
    assert float(log_likelihood(logits, torch.tensor([1]))) == -50.0


def test_choose_takes_the_earlier_of_equals():
    assert choose([3, 1, 2], lambda value: (1.0,)) == 3
    assert choose([3, 1, 2], lambda value: (float(value == 2),)) == 2
    with pytest.raises(InputError, match="candidates is empty"):
        choose([], lambda value: (0.0,))


def test_log_grid_has_equal_ratios():
    assert log_grid(0.5, 32.0, 7).tolist() == pytest.approx([0.5, 1, 2, 4, 8, 16, 32])
    assert log_grid(2.0, 2.0, 1).tolist() == [2.0]


def test_a_plateau_beats_a_lone_peak():
    grid = torch.zeros(7, 7)
    grid[1, 1] = 1.0
    grid[3:6, 3:6] = 0.9
    assert choose_in_grid(grid, 10) == (4, 4)


def test_grid_ties_go_to_the_tie_break_then_to_the_smaller():
    grid = torch.full((3, 4), 0.5)
    assert choose_in_grid(grid, 8) == (0, 0)
    assert choose_in_grid(grid, 8, lambda g, a: -(g - 1).abs() - (a - 2).abs()) == (1, 2)
    assert choose_in_grid(grid, 8, lambda g, a: torch.zeros(len(g))) == (0, 0)


def test_fingerprint_sees_names_values_shapes_and_types():
    x = torch.arange(6.0)
    prints = {
        fingerprint_tensors(a=x),
        fingerprint_tensors(b=x),
        fingerprint_tensors(a=x.reshape(2, 3)),
        fingerprint_tensors(a=x.double()),
        fingerprint_tensors(a=x + 1),
    }
    assert len(prints) == 5
    assert fingerprint_tensors(a=x, b=None) == fingerprint_tensors(a=x.clone())
