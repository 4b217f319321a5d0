"""One temperature, fitted on a few samples."""

from __future__ import annotations

import pytest
import torch

from vlmadapt.training import best_temperature


def test_the_temperature_is_the_likeliest():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
    assert best_temperature([7.0 * logits], [labels]) == pytest.approx(7.0, rel=0.13)
    assert best_temperature([logits[:10], logits[10:]], [labels[:10], labels[10:]]) == best_temperature(
        [logits], [labels]
    )


def test_a_few_right_answers_are_no_certainty():
    """Ten of ten right, of four classes: without the sample by chance, the most certain would be the likeliest."""
    labels = torch.arange(10) % 4
    logits = 10.0 * torch.eye(4)[labels]
    certain = (logits / best_temperature([logits], [labels])).softmax(-1).max(-1).values
    assert float(certain.min()) < 0.99


def test_classes_that_cannot_be_are_no_nan():
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [2.0, 0.0, -torch.inf]])
    assert 0.02 <= best_temperature([logits], [torch.tensor([1, 2])]) <= 50.0
