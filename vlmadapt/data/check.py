"""What is in a data set and what is wrong with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from vlmadapt.data.benchmarks import find_benchmark, missing_files
from vlmadapt.data.load import load_dataset
from vlmadapt.data.types import SPLITS, Dataset, Sample
from vlmadapt.errors import FileError, VlmadaptError
from vlmadapt.pictures import decode
from vlmadapt.progress import track


@dataclass(frozen=True)
class CheckReport:
    """Findings of :func:`check_dataset`; ``ok`` when nothing is wrong."""

    name: str
    class_names: tuple[str, ...] = ()
    counts: dict[str, list[int]] = field(default_factory=dict)  # split -> pictures per class
    problems: tuple[str, ...] = ()  # what keeps the set from being loaded or used
    missing: tuple[Path, ...] = ()
    unreadable: tuple[str, ...] = ()  # one sentence a picture, naming it
    duplicates: tuple[tuple[Path, Path], ...] = ()  # equal bytes in two splits: (earlier split, later split)

    @property
    def ok(self) -> bool:
        """Whether there is no finding."""
        return not (self.problems or self.missing or self.unreadable or self.duplicates)

    def lines(self) -> list[str]:
        """The report as text: a table of counts, then every finding."""
        lines = [f"{self.name}: {len(self.class_names)} classes"]
        if self.counts:
            lines.append("".join(f"{title:>7}" for title in SPLITS) + "  class")
            for label, class_name in enumerate(self.class_names):
                lines.append("".join(f"{self.counts[split][label]:7}" for split in SPLITS) + f"  {class_name}")
            lines.append("".join(f"{sum(self.counts[split]):7}" for split in SPLITS) + "  all")
        lines += list(self.problems)
        lines += [f"missing: {path}" for path in self.missing]
        lines += list(self.unreadable)
        lines += [f"the same picture is in two splits: {first} and {second}" for first, second in self.duplicates]
        lines.append("nothing wrong found" if self.ok else "see above for what is wrong")
        return lines


def check_dataset(
    spec: str | Path | Dataset, seed: int = 0, root: str | Path | None = None, progress: bool = True
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
            spec = load_dataset(spec, seed, root, check_files=False)
        except VlmadaptError as error:
            return CheckReport(name=str(spec), problems=(str(error),))
    return _check_loaded(spec, progress)


def _check_loaded(dataset: Dataset, progress: bool) -> CheckReport:
    counts = {split: dataset.counts(split) for split in SPLITS}
    missing: list[Path] = []
    unreadable: list[str] = []
    first_seen: dict[str, tuple[str, Path]] = {}
    duplicates: list[tuple[Path, Path]] = []
    total = sum(map(sum, counts.values()))
    for split, sample, digest, trouble in track(_inspect_all(dataset), f"checking {dataset.name}", total, progress):
        if digest is None:
            missing.append(sample.path)
            continue
        if trouble:
            unreadable.append(trouble)
        earlier_split, earlier = first_seen.setdefault(digest, (split, sample.path))
        if earlier_split != split:
            duplicates.append((earlier, sample.path))
    return CheckReport(
        name=dataset.name,
        class_names=dataset.class_names,
        counts=counts,
        problems=tuple(_thin_classes(dataset, counts)),
        missing=tuple(missing),
        unreadable=tuple(unreadable),
        duplicates=tuple(duplicates),
    )


def _thin_classes(dataset: Dataset, counts: dict[str, list[int]]) -> Iterator[str]:
    for split in ("train", "test"):
        for label, count in enumerate(counts[split]):
            if count == 0:
                yield f"class {dataset.class_names[label]!r} has no pictures in {split}: add some or leave it out"


def _inspect_all(dataset: Dataset) -> Iterator[tuple[str, Sample, str | None, str]]:
    """(split, sample, content hash or None when missing, trouble) of every picture, in order."""
    work = [(split, sample) for split in SPLITS for sample in dataset.split(split)]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for (split, sample), found in zip(work, pool.map(_inspect, (sample.path for _, sample in work)), strict=True):
            yield split, sample, *found


def _inspect(path: Path) -> tuple[str | None, str]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return hashlib.sha256(str(path).encode()).hexdigest(), f"could not read {path}: {error.strerror}."
    digest = hashlib.sha256(data).hexdigest()
    try:
        decode(data, path)
    except FileError as error:
        return digest, str(error)
    return digest, ""
