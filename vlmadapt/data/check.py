"""What is in a data set and what is wrong with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vlmadapt.data.benchmarks import find_benchmark, missing_files
from vlmadapt.data.load import load_quietly
from vlmadapt.data.same import CLASSES_APART, SPLITS_APART, TOGETHER, Place, SamePictures
from vlmadapt.data.table import NAMED, Columns
from vlmadapt.data.types import SPLITS, Dataset, Row, Sample
from vlmadapt.errors import FileError, VlmadaptError, shown
from vlmadapt.kinds import of_kinds
from vlmadapt.pictures import Identity, decode
from vlmadapt.pictures.identity import Sketch, identity_of, sketch_of
from vlmadapt.pictures.read import contents
from vlmadapt.progress import track

FEW = 5  # pictures of a class that are few
MOST = 10  # pairs or classes named of a kind
LONG = 32  # a picture so many times longer than wide is named: little of it is seen


@dataclass(frozen=True)
class CheckReport:
    """Findings of :func:`check_dataset`; ``ok`` when nothing is wrong.

    ``duplicates`` and ``two_labels`` are pairs of one picture by content (:class:`vlmadapt.pictures.Identity`): in two
    splits, the earlier first, or within a split in two classes. ``hints`` are what need not be wrong: pictures in two
    splits that look alike, and very long ones.
    """

    name: str
    class_names: tuple[str, ...] = ()
    counts: dict[str, list[int]] = field(default_factory=dict)  # split -> pictures per class
    notes: tuple[str, ...] = ()  # what was left out
    problems: tuple[str, ...] = ()  # what keeps the set from being loaded or used, or is probably not meant so
    missing: tuple[Path, ...] = ()
    unreadable: tuple[str, ...] = ()  # one sentence a picture, naming it
    duplicates: tuple[tuple[Path, Path], ...] = ()
    two_labels: tuple[tuple[Path, Path], ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no finding; notes and hints are none."""
        return not (self.problems or self.missing or self.unreadable or self.duplicates or self.two_labels)

    def lines(self) -> list[str]:
        """The report as text: a table of counts, then every finding."""
        lines = [f"{self.name}: {len(self.class_names)} classes"]
        if self.counts:
            lines.append("".join(f"{title:>7}" for title in SPLITS) + "  class")
            for label, class_name in enumerate(self.class_names):
                lines.append("".join(f"{self.counts[split][label]:7}" for split in SPLITS) + f"  {class_name}")
            lines.append("".join(f"{sum(self.counts[split]):7}" for split in SPLITS) + "  all")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"hint: {hint}" for hint in self.hints]
        lines += list(self.problems)
        lines += [f"missing: {shown(path)}" for path in self.missing]
        lines += list(self.unreadable)
        lines += [f"the same picture is in two splits: {_pair(pair)}" for pair in self.duplicates]
        lines += [f"the same picture is in two classes: {_pair(pair)}" for pair in self.two_labels]
        lines.append("nothing wrong found" if self.ok else "see above for what is wrong")
        return lines


def _pair(pair: tuple[Path, Path]) -> str:
    return f"{shown(pair[0])} and {shown(pair[1])}"


@of_kinds
def check_dataset(
    spec: str | Path | Dataset,
    seed: int = 0,
    root: str | Path | None = None,
    progress: bool = True,
    domain: str | None = None,
    test_domain: str | None = None,
    columns: Columns = NAMED,
) -> CheckReport:
    """Load a data set (as :func:`vlmadapt.data.load_dataset`), decode every picture and compare contents.

    Never raises for what is wrong with the data: it is in the report, file by file.
    """
    if not isinstance(spec, Dataset):
        benchmark = find_benchmark(spec) if isinstance(spec, str) and root is not None else None
        missing = missing_files(benchmark, root) if benchmark is not None and root is not None else []
        if missing:
            return CheckReport(name=str(spec), missing=tuple(missing))
        try:
            spec = load_quietly(spec, seed, root, False, domain, test_domain, columns=columns)
        except VlmadaptError as error:
            return CheckReport(name=shown(str(spec)), problems=(str(error),))
    return _check_loaded(spec, progress)


def _check_loaded(dataset: Dataset, progress: bool) -> CheckReport:
    counts = {split: dataset.counts(split) for split in SPLITS}
    missing: list[Path] = []
    unreadable: list[str] = []
    hints: list[str] = []
    same = SamePictures()
    total = sum(map(sum, counts.values()))
    for split, sample, found in track(_inspect_all(dataset), f"checking {dataset.name}", total, progress):
        if found is None:
            missing.append(sample.path)
            continue
        if found.trouble:
            unreadable.append(found.trouble)
        if found.size is not None and max(found.size) >= LONG * min(found.size):
            hints.append(f"{shown(sample.path)} is {found.size[0]} x {found.size[1]} pixels: little of it is seen")
        same.add(Place(split, sample.label, sample.path), found.identity, found.sketch)
    return CheckReport(
        name=dataset.name,
        class_names=dataset.class_names,
        counts=counts,
        notes=dataset.notes,
        problems=(*dataset.doubts, *_thin_classes(dataset, counts)),
        missing=tuple(missing),
        unreadable=tuple(unreadable),
        duplicates=tuple(same.in_two_splits),
        two_labels=tuple(same.in_two_classes),
        hints=(*hints, *_alike(same), *_small_classes(dataset, counts)),
    )


def _alike(same: SamePictures) -> Iterator[str]:
    """Pictures that look alike: some pairs in two splits or classes, and how many there are."""
    found: dict[str, list[tuple[Path, Path]]] = {SPLITS_APART: [], CLASSES_APART: [], TOGETHER: []}
    for apart, *pair in same.alike():
        found[apart].append((pair[0], pair[1]))
    for apart in (SPLITS_APART, CLASSES_APART):
        yield from (f"these pictures in {apart} look alike: {_pair(pair)}" for pair in found[apart][:MOST])
        if len(found[apart]) > MOST:
            yield f"{len(found[apart]) - MOST} more pairs in {apart} look alike"
    for pairs, one, more in (
        (same.twice, "is a copy of", "are copies of"),
        (found[TOGETHER], "looks like", "look like"),
    ):
        if pairs:
            number = f"{len(pairs)} pictures {more}" if len(pairs) > 1 else f"1 picture {one}"
            yield f"{number} another of the same class, which teaches little (first {_pair(pairs[0])})"


def _small_classes(dataset: Dataset, counts: dict[str, list[int]]) -> Iterator[str]:
    """Classes of which so few pictures are there that little is learned or known."""
    says = {
        "train": "more shots than that need --shots all or --allow-short",
        "test": "the interval of their accuracy is 49 points wide or wider",
    }
    for split, consequence in says.items():
        named = zip(counts[split], dataset.class_names, strict=True)
        small = [(count, name) for count, name in named if 0 < count < FEW]
        if small:
            some = ", ".join(f"{name!r} {count}" for count, name in sorted(small)[:MOST])
            more = f" and {len(small) - MOST} more" if len(small) > MOST else ""
            classes = f"{len(small)} class{'es have' if len(small) > 1 else ' has'}"
            yield f"{classes} fewer than {FEW} pictures in {split} ({some}{more}): {consequence}"


def _thin_classes(dataset: Dataset, counts: dict[str, list[int]]) -> Iterator[str]:
    for split in ("train", "test"):
        if split == "test" and not dataset.test:
            continue  # said already
        for label, count in enumerate(counts[split]):
            if count == 0:
                yield f"class {dataset.class_names[label]!r} has no pictures in {split}: add some or leave it out"


class _Found(NamedTuple):
    """What a file holds; an unreadable one has ``trouble`` and an identity of its bytes alone, if of any."""

    identity: Identity | None
    sketch: Sketch | None = None
    size: tuple[int, int] | None = None
    trouble: str = ""


def _inspect_all(dataset: Dataset) -> Iterator[tuple[str, Sample, _Found | None]]:
    """(split, sample, what was found or None when missing) of every picture, in order."""
    work = [(split, sample) for split in SPLITS for sample in dataset.split(split)]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for (split, sample), found in zip(work, pool.map(_inspect, (sample for _, sample in work)), strict=True):
            yield split, sample, found


def _inspect(sample: Sample) -> _Found | None:
    if isinstance(sample, Row):
        return _Found(sample.identity())
    path = sample.path
    try:
        data = contents(path)
    except FileError as error:
        return None if isinstance(error.__cause__, FileNotFoundError) else _Found(None, trouble=str(error))
    try:
        image = decode(data, path)
    except FileError as error:
        return _Found(Identity(hashlib.sha256(data).hexdigest(), ""), trouble=str(error))
    return _Found(identity_of(data, image), sketch_of(image), image.size)
