"""Which pictures are the same by content: within a data set, or in one and among those of a fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from vlmadapt.data.types import Row, Sample
from vlmadapt.pictures import Identity
from vlmadapt.pictures.identity import Known, Sketch

Value = TypeVar("Value")
SPLITS_APART, CLASSES_APART, TOGETHER = "two splits", "two classes", "one class"
MOST_IN_A_BAND = 64  # sketches that share 16 bits with so many others are compared with those only


class Place(NamedTuple):
    """Where a picture of a data set is."""

    split: str
    label: int
    path: Path


class SamePictures:
    """Gathers pictures in the order of their splits and tells which were there before.

    ``in_two_splits``, ``in_two_classes`` and ``twice`` hold (earlier path, later path); a picture in two splits and two
    classes is in the first, one that is twice in a class of a split in the last.
    """

    def __init__(self) -> None:
        self.in_two_splits: list[tuple[Path, Path]] = []
        self.in_two_classes: list[tuple[Path, Path]] = []
        self.twice: list[tuple[Path, Path]] = []
        self._first: dict[str, Place] = {}
        self._sketches: list[tuple[Place, Sketch]] = []

    def add(self, place: Place, identity: Identity | None, sketch: Sketch | None) -> None:
        """One more picture; without ``identity`` it is like no other."""
        keys = [key for key in identity.keys if key] if identity is not None else []
        earlier = next((self._first[key] for key in keys if key in self._first), None)
        for key in keys:
            self._first.setdefault(key, place)
        if earlier is None:
            if sketch is not None:
                self._sketches.append((place, sketch))
        elif earlier.split != place.split:
            self.in_two_splits.append((earlier.path, place.path))
        elif earlier.label != place.label:
            self.in_two_classes.append((earlier.path, place.path))
        else:
            self.twice.append((earlier.path, place.path))

    def alike(self) -> Iterator[tuple[str, Path, Path]]:
        """(what they are in, earlier path, later path) of pictures that are not the same but look so: in two splits,
        else in two classes, else in one."""
        bands: dict[tuple[int, int], list[tuple[Place, Sketch]]] = {}
        for place, sketch in self._sketches:
            near = [other for band in sketch.bands() for other in bands.get(band, ())]
            found = {_apart(other, place): other for other, seen in reversed(near) if seen.resembles(sketch)}
            for apart in (SPLITS_APART, CLASSES_APART, TOGETHER):
                if apart in found:
                    yield apart, found[apart].path, place.path
                    break
            for band in sketch.bands():
                group = bands.setdefault(band, [])
                if len(group) < MOST_IN_A_BAND:
                    group.append((place, sketch))


def _apart(one: Place, other: Place) -> str:
    if one.split != other.split:
        return SPLITS_APART
    return CLASSES_APART if one.label != other.label else TOGETHER


def identities(samples: Sequence[Sample]) -> list[Identity]:
    """The identity of each of ``samples``, in order; raises what :meth:`Sample.identity` raises."""
    return _of_each(lambda sample: sample.identity(), samples)


def found_again(known: Iterable[tuple[Identity, str]], samples: Sequence[Sample]) -> list[tuple[Path, str]]:
    """(path, name of the picture it is the same as) of those of ``samples`` that are in ``known`` by content.

    Raises :class:`FileError` naming a picture that cannot be read.
    """
    pictures = Known(known)
    names = _of_each(lambda sample: sample.name_in(pictures), samples)
    return [(sample.path, name) for sample, name in zip(samples, names, strict=True) if name is not None]


def _of_each(look: Callable[[Sample], Value], samples: Sequence[Sample]) -> list[Value]:
    """Files are read in threads; rows of features are there, and a thread's work would be the larger."""
    if all(isinstance(sample, Row) for sample in samples):
        return list(map(look, samples))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(look, samples))
