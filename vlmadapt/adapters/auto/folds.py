"""Labelled samples in folds: each is predicted once by fits that have not seen it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def assign(labels: Tensor, classes: int, folds: int, generator: torch.Generator) -> Tensor:
    """Fold of each sample: int64 ``[n]``, those of a class dealt out evenly; -1 where a class has no second sample.

    Such a sample is in every fit: without it the class would be unknown, which says nothing about a method.
    """
    fold = torch.full((len(labels),), -1)
    for label in range(classes):
        rows = torch.nonzero(labels == label).squeeze(-1)
        if len(rows) > 1:
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            start = int(torch.randint(folds, (), generator=generator))  # or the first folds would be the largest
            fold[shuffled] = (start + torch.arange(len(rows))) % folds
    return fold


def splits(labels: Tensor, classes: int, folds: int, repeats: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows to fit on, rows held out) of each fold of each repeat; a fold without rows to hold out is left out.

    No class loses all of its samples at once: with fewer samples than folds each of them is in a fold of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(repeats):
        fold = assign(labels.cpu(), classes, folds, generator)
        for number in range(folds):
            held = fold == number
            if bool(held.any()):
                yield torch.nonzero(~held).squeeze(-1), torch.nonzero(held).squeeze(-1)
