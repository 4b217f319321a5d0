"""Labelled features: the one shape in which they travel from the pictures to a fit and to a measure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """features: ``[n, D]``. labels: int64 ``[n]``. position: int64 ``[n]``, row of each in what was given."""

    features: Tensor
    labels: Tensor
    position: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor) -> Samples:
        """In the order they are in."""
        return cls(features, labels, torch.arange(len(labels), device=labels.device))

    def __len__(self) -> int:
        return len(self.labels)
