"""Labelled samples in folds: each is predicted once by fits that have not seen it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from vlmadapt.adapters.checks import canonical_order
from vlmadapt.errors import InputError
from vlmadapt.training import Samples

ENOUGH = 300  # held-out predictions, where up to MOST_REPEATS deals bring so many
MOST_REPEATS = 3


def assign(labels: Tensor, folds: int, ranks: Tensor) -> Tensor:
    """Fold of each sample: int64 ``[n]``, those of a class dealt out evenly by their ``ranks``, a permutation.

    -1 where a class has no second sample: such a one is in every fit, for without it the class would be unknown,
    which says nothing about a method.
    """
    fold = torch.full((len(labels),), -1)
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).squeeze(-1)
        if len(rows) > 1:
            dealt = rows[ranks[rows].argsort()]
            start = int(ranks[dealt[0]])  # as good as random, and another than other classes': folds are of one size
            fold[dealt] = (start + torch.arange(len(rows))) % folds
    return fold


def splits(features: Tensor, labels: Tensor, folds: int, repeats: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows to fit on, rows held out) of each fold of each repeat; a fold without rows to hold out is left out.

    Not into more folds than a usual class has samples: each then holds out as many of every class, and no class is
    weak beside others in a fit. No class loses all of its samples at once. The set of samples ``features [n, D]``,
    ``labels [n]`` and the seed decide, not their order or the numbers of the classes.
    """
    order = canonical_order(features)
    ordered = labels.cpu()[order]
    generator = torch.Generator().manual_seed(seed)
    counts = [count for count in torch.bincount(ordered).tolist() if count > 1]
    folds = min(folds, statistics.median_low(counts)) if counts else folds
    for _ in range(repeats):
        fold = assign(ordered, folds, torch.randperm(len(ordered), generator=generator))
        for number in range(folds):
            if bool((fold == number).any()):
                yield order[fold != number], order[fold == number]


def repeats_for(count: int) -> int:
    """How often ``count`` samples are dealt where nobody says: of few samples one deal decides little."""
    return min(max(-(-ENOUGH // max(count, 1)), 1), MOST_REPEATS)


def together(support: Samples, validation: Samples | None) -> Samples:
    """All labelled samples, their positions counted as ``fit`` was given them, validation after support.

    Raises :class:`InputError` where the ones have other numbers of views than the others.
    """
    parts = [support] if validation is None else [support, validation]
    widths = {0 if part.views is None else part.views.shape[1] for part in parts}
    if len(widths) > 1:
        raise InputError(
            f"features and val_features have {' and '.join(str(1 + each) for each in sorted(widths))} views: give as "
            "many of each, for all are learned from."
        )
    features, labels = torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts])
    starts = [0, len(support)][: len(parts)]
    position = torch.cat([start + part.position for start, part in zip(starts, parts, strict=True)])
    views = [part.views for part in parts if part.views is not None]
    pictures = [part.pictures for part in parts if part.pictures is not None]
    every = Samples(
        features,
        labels,
        position,
        torch.cat(views) if views else None,
        list(chain.from_iterable(pictures)) if len(pictures) == len(parts) else None,
    )
    return every.rows(canonical_order(features).to(features.device))
