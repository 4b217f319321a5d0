"""Class means, and classes that have none."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.training import Samples


def class_means(support: Samples, classes: int) -> Tensor:
    """Mean feature of each class ``[C, D]``, zero without samples."""
    sums = support.features.new_zeros(classes, support.features.shape[1]).index_add(0, support.labels, support.features)
    return sums / torch.bincount(support.labels, minlength=classes).clamp(min=1).unsqueeze(-1)


def have_samples(support: Samples, classes: int) -> Tensor:
    """Which classes have any: bool ``[C]``."""
    return torch.bincount(support.labels, minlength=classes) > 0


def neither_for_nor_against(scores: Tensor, present: Tensor) -> Tensor:
    """``scores [B, C]`` with the mean of the classes ``present [C]`` for all others, which have no score of their own.

    Ours: whatever a class without samples had else, it would win or lose against all of them by it.
    """
    mean = scores[:, present].mean(-1, keepdim=True)
    return torch.where(present, scores, mean)
