"""Labelled features: the one shape in which they travel from the pictures to a fit and to a measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """features: ``[n, D]``. labels: int64 ``[n]``. position: int64 ``[n]``, row of each in what was given.

    views: ``[n, V, D]``, V further views of each; None where there are none. pictures: n paths or PIL images that the
        features are of; None where features were given.
    """

    features: Tensor
    labels: Tensor
    position: Tensor
    views: Tensor | None = None
    pictures: Sequence[Any] | None = None

    @classmethod
    def of(
        cls, features: Tensor, labels: Tensor, views: Tensor | None = None, pictures: Sequence[Any] | None = None
    ) -> Samples:
        """In the order they are in."""
        return cls(features, labels, torch.arange(len(labels), device=labels.device), views, pictures)

    def rows(self, rows: Tensor) -> Samples:
        """Those of ``rows``, int64 ``[m]``, in their order, at the positions they had."""
        views = None if self.views is None else self.views[rows]
        pictures = None if self.pictures is None else [self.pictures[row] for row in rows.tolist()]
        return Samples(self.features[rows], self.labels[rows], self.position[rows], views, pictures)

    @property
    def given(self) -> Tensor:
        """What an adapter is given: ``features [n, D]``, or ``[n, 1 + V, D]`` with the views of each behind it."""
        return self.features if self.views is None else torch.cat([self.features.unsqueeze(1), self.views], 1)

    def __len__(self) -> int:
        return len(self.labels)
