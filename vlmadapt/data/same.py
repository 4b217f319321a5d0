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
MOST_IN_A_BAND = 64  # sketches that share 16 bits with so many others are compared with those only


class Place(NamedTuple):
    """Where a picture of a data set is."""

    split: str
    label: int
    path: Path


class SamePictures:
    """Gathers pictures in the order of their splits and tells which were there before.

    ``in_two_splits`` and ``in_two_classes`` hold (earlier path, later path); a picture in both is in the first.
    """

    def __init__(self) -> None:
        self.in_two_splits: list[tuple[Path, Path]] = []
        self.in_two_classes: list[tuple[Path, Path]] = []
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

    def alike(self) -> Iterator[tuple[Path, Path]]:
        """(earlier, later) paths of pictures in two splits that are not the same but look so."""
        bands: dict[tuple[int, int], list[tuple[Place, Sketch]]] = {}
        for place, sketch in self._sketches:
            near = [other for band in sketch.bands() for other in bands.get(band, ())]
            found = next((p for p, s in near if p.split != place.split and s.resembles(sketch)), None)
            if found is not None:
                yield found.path, place.path
            for band in sketch.bands():
                group = bands.setdefault(band, [])
                if len(group) < MOST_IN_A_BAND:
                    group.append((place, sketch))


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
