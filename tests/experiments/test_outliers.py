"""Pictures far from their class: planted wrong labels are found, and little else."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from vlmadapt.experiments.outliers import far_from_their_class


def clouds(classes: int = 6, each: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=generator)
    labels = torch.arange(classes).repeat_interleave(each)
    return normalize(centres[labels] + 0.6 * torch.randn(len(labels), 16, generator=generator), dim=-1), labels


def test_wrong_labels_are_found_with_the_class_they_look_like():
    features, labels = clouds()
    assert len(far_from_their_class(features, labels, 6)) <= 2
    wrong = labels.clone()
    planted = {3: 4, 30: 0, 70: 1}
    for row, label in planted.items():
        wrong[row] = label
    found = far_from_their_class(features, wrong, 6)
    assert {one.row for one in found[:3]} == set(planted)
    assert all(one.like == int(labels[one.row]) for one in found[:3])
    assert [one.by for one in found] == sorted((one.by for one in found), reverse=True) and found[-1].by > 0


def test_small_classes_and_equal_pictures_are_no_trouble():
    features, labels = clouds(each=3)
    assert far_from_their_class(features, labels, 6) == []
    same = features[:1].expand(8, -1)
    assert far_from_their_class(same, torch.tensor([0] * 4 + [1] * 4), 3) == []
