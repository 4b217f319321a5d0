"""Class means, and classes that have none."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.training import Samples


def class_means(support: Samples, classes: int) -> Tensor:
    """Mean feature of each class ``[C, D]``, zero without samples."""
    sums = support.features.new_zeros(classes, support.features.shape[1]).index_add(0, support.labels, support.features)
    return sums / torch.bincount(support.labels, minlength=classes).clamp(min=1).unsqueeze(-1)


def padded(rows: Tensor, classes: int) -> Tensor:
    """``rows [c, ...]`` and zeros behind them: ``[classes, ...]``, c at most ``classes``."""
    return torch.cat([rows, rows.new_zeros(classes - len(rows), *rows.shape[1:])])


def class_sums(support: Samples, classes: int) -> tuple[Tensor, Tensor]:
    """Sum of each class's features, float64 ``[C, D]``, and how many they are, int64 ``[C]``."""
    sums = support.features.new_zeros(classes, support.features.shape[1], dtype=torch.float64)
    counts = torch.bincount(support.labels, minlength=classes)
    return sums.index_add(0, support.labels, support.features.double()), counts


def have_samples(support: Samples, classes: int) -> Tensor:
    """Which classes have any: bool ``[C]``."""
    return torch.bincount(support.labels, minlength=classes) > 0


def neither_for_nor_against(scores: Tensor, present: Tensor) -> Tensor:
    """``scores [B, C]`` with the mean of the classes ``present [C]`` for all others, which have no score of their own.

    Ours: whatever a class without samples had else, it would win or lose against all of them by it.
    """
    # Not scores[:, present]: how many are present would be unknown where this is exported.
    mean = torch.where(present, scores, 0).sum(-1, keepdim=True) / present.sum()
    return torch.where(present, scores, mean)
