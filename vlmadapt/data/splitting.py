"""Seeded choices that depend on nothing but a seed and relative paths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlmadapt.data.types import Parts, Sample, relative_key

VAL_SHARE = 0.2
TEST_SHARE = 0.3


def ranked(samples: Iterable[Sample], root: Path, seed: int, purpose: str) -> list[Sample]:
    """``samples`` ordered by sha256 of ``purpose``, ``seed`` and relative path.

    The order is a seeded shuffle that is the same on every machine and Python version, whatever order the file
    system lists files in; a picture that is added or removed does not reorder the others.
    """

    def rank(sample: Sample) -> tuple[bytes, str]:
        key = relative_key(sample.path, root)
        digest = hashlib.sha256(f"{purpose}\0{seed}\0{key}".encode("utf-8", "surrogateescape")).digest()
        return digest, key

    return sorted(samples, key=rank)


def by_label(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    """Samples of each label, labels ascending."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.label, []).append(sample)
    return dict(sorted(groups.items()))


def split_by_seed(samples: Sequence[Sample], root: Path, seed: int) -> Parts:
    """Split each class 50 % train, 20 % val, 30 % test.

    A class with three or more pictures has at least one in each split; with two, one trains and one tests; with
    one, it trains.
    """
    parts: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    for group in by_label(samples).values():
        order = ranked(group, root, seed, "split")
        count = len(order)
        test = max(1, round(TEST_SHARE * count)) if count >= 2 else 0
        val = max(1, round(VAL_SHARE * count)) if count >= 3 else 0
        parts["test"] += order[:test]
        parts["val"] += order[test : test + val]
        parts["train"] += order[test + val :]
    return {split: tuple(part) for split, part in parts.items()}


def carve_val(train: Sequence[Sample], root: Path, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """(train, val): 20 % of each training class becomes validation, at least one picture where there are two."""
    kept: list[Sample] = []
    val: list[Sample] = []
    for group in by_label(train).values():
        order = ranked(group, root, seed, "val")
        take = max(1, round(VAL_SHARE * len(order))) if len(order) >= 2 else 0
        val += order[:take]
        kept += order[take:]
    return tuple(kept), tuple(val)
