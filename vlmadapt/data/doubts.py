"""What of a data set is probably not meant so, told wherever it is loaded: no file is opened for it."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from vlmadapt.data.names import alike
from vlmadapt.data.types import SPLITS, Dataset
from vlmadapt.errors import shown

NO_TEST = "has no test pictures: it can be fitted, but neither compared nor evaluated"


def doubts_of(dataset: Dataset) -> tuple[str, ...]:
    """Sentences about a missing test split, class names that are nearly one, and pictures listed twice."""
    found = []
    if not dataset.test:
        found.append(f"{dataset.name} {NO_TEST}")
    groups = alike(dataset.class_names)
    if groups:
        more = f" (and {len(groups) - 1} more such)" if len(groups) > 1 else ""
        names = " and ".join(map(repr, groups[0]))
        found.append(f"{names} are different classes that differ in case or zeros only{more}")
    return (*found, *_listed_twice(dataset))


def notes_of(dataset: Dataset) -> tuple[str, ...]:
    """A sentence about pictures that lie outside the data set's folder, as listings may name them."""
    outside = [
        sample.path
        for split in SPLITS
        for sample in dataset.split(split)
        if os.path.normpath(dataset.key(sample)).split(os.sep)[0] == os.pardir
    ]
    if not outside:
        return ()
    return (f"{len(outside)} listed outside of {shown(dataset.root)} (first {shown(outside[0])})",)


def _listed_twice(dataset: Dataset) -> tuple[str, ...]:
    first: dict[str, tuple[str, int]] = {}
    twice: list[tuple[str, str, Path]] = []
    for split in SPLITS:
        for sample in dataset.split(split):
            path = unicodedata.normalize("NFC", os.path.normpath(sample.path))
            earlier, label = first.setdefault(path, (split, sample.label))
            if (earlier, label) != (split, sample.label):
                twice.append((earlier, split, sample.path))
    if not twice:
        return ()
    earlier, split, example = twice[0]
    where = f"in {earlier} and {split}" if earlier != split else f"under two labels in {split}"
    more = f" ({len(twice)} such pictures)" if len(twice) > 1 else ""
    return (f"{shown(example)} is listed {where}{more}: results on it mean nothing",)
