"""Which pictures a saved classifier is evaluated on, whatever labelled pictures are given. Ours.

* Of what it was fitted on, and of data that come with splits: the test split.
* Of data without splits that hold no picture of the fit: all of them, else the test split drawn by seed.
* Of a tree with domains above the classes: the same of each domain.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmadapt.data import BENCHMARKS, BUILTIN, Dataset
from vlmadapt.data.names import class_name_of
from vlmadapt.data.tree import Branch, read_tree
from vlmadapt.errors import InputError, shown
from vlmadapt.experiments import folders, leaks
from vlmadapt.experiments.sources import Data, open_dataset

if TYPE_CHECKING:
    from vlmadapt.classifier import Run
    from vlmadapt.data import Sample
    from vlmadapt.experiments.options import EvaluateOptions

SHOWN = 5  # names of classes or domains in a sentence


@dataclass(frozen=True)
class TestData:
    """``dataset``: its test split is what is evaluated, with labels of the classifier.

    said: how much that is, in words. domains: the domain of each test picture, empty where there are none. left_out:
    pictures of each class that the classifier does not know.
    """

    __test__ = False  # for pytest: this is no test

    dataset: Dataset
    said: str
    domains: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def test_data(run: Run, data: Data | None, options: EvaluateOptions) -> TestData:
    """What ``run`` is evaluated on: ``data``, by default what it was fitted on.

    Raises :class:`InputError` when that is not known, when the results would be written into it, for pictures of
    classes that the classifier does not know, unless they are to be left out, and for pictures that it was fitted on.
    """
    if isinstance(data, Dataset):
        return _of_set(run, data, options)
    spec: str | Path
    if data is not None:
        spec = data
    elif run.data.source is not None:
        spec = run.data.source.spec
    else:
        raise InputError("data is missing: the classifier was fitted on a data set without a source, so name it.")
    folders.refuse_inside(spec, folders.places_of(options))
    if data is None:
        return _of_set(run, run.data.source.load(options.domain, options.test_domain), options)  # type: ignore[union-attr]
    return _of_tree(run, spec, options) or _of_set(run, open_dataset(spec, options, run.class_names), options)


test_data.__test__ = False  # type: ignore[attr-defined]


def _of_set(run: Run, dataset: Dataset, options: EvaluateOptions) -> TestData:
    samples, left_out, words = _tested(run, dataset, options)
    if left_out:
        _require_known(run, dataset.name, samples)
    aligned = _of_classes(replace(dataset, test=samples), run)
    said = "\n".join([f"{dataset.name}: {words}", *_notes((*dataset.notes, *_left_out(left_out)))])
    return TestData(aligned, said, left_out=left_out)


def _of_tree(run: Run, spec: str | Path, options: EvaluateOptions) -> TestData | None:
    """The same of each domain of a folder of domains; None for anything else."""
    named = str(spec) in BUILTIN or (str(spec) in BENCHMARKS and options.root is not None)
    root = Path(spec).expanduser()
    if named or options.domain is not None or not root.is_dir():
        return None
    tree = read_tree(root, run.class_names, options.split_seed)
    if tree is None:
        return None
    branches, strays, notes = tree
    if strays:
        _refuse_classes(run, root.resolve().name, strays, None, options)
    for doubt in dict.fromkeys(doubt for branch in branches for doubt in branch.data.doubts):
        warnings.warn(f"{doubt}.", stacklevel=3)
    parts: list[Dataset] = []
    domains: list[str] = []
    left_out: Counter[str] = Counter(strays)
    lines = []
    for name, data in branches:
        samples, other, words = _tested(run, replace(data, name=f"{root.resolve().name}/{name}"), options)
        left_out.update(other)
        lines.append(f"{shown(name)}: {words}")
        if samples:
            parts.append(_of_classes(replace(data, test=samples), run))
            domains += [name] * len(samples)
    _require_known(run, root.resolve().name, domains)
    whole = _joined(root, branches, parts)
    found = f"{whole.name}: {_counted(whole)} in {len(parts)} folder{'s' * (len(parts) > 1)} above the classes"
    notes = (*notes, *(note for branch in branches for note in branch.data.notes), *_left_out(left_out))
    several = tuple(domains) if len(parts) > 1 else ()
    return TestData(whole, "\n".join([found, *_notes((*lines, *notes))]), several, dict(left_out))


def _joined(root: Path, branches: Sequence[Branch], parts: Sequence[Dataset]) -> Dataset:
    place = os.path.commonpath([branch.data.root for branch in branches])
    test = tuple(sample for part in parts for sample in part.test)
    return replace(parts[0], name=root.resolve().name, train=(), val=(), test=test, root=Path(place), seeded=False)


def _tested(run: Run, dataset: Dataset, options: EvaluateOptions) -> tuple[tuple[Sample, ...], dict[str, int], str]:
    """(the pictures of ``dataset`` to evaluate, pictures of each unknown class among them, how many in words)."""
    known = {class_name_of(name) for name in run.class_names}
    other = {name for name in dataset.class_names if class_name_of(name) not in known}
    own = dataset.split_hash == run.data.split_hash
    if other:  # told before pictures are read
        _refuse_unknown(run, dataset, dataset.test if own or not dataset.seeded else _all(dataset), options)
    every = leaks.unseen(run, dataset)
    if every is None:
        leaks.refuse(run, dataset)
    tested = dataset.test if every is None else every
    left_out = Counter(dataset.class_names[sample.label] for sample in tested)
    unknown = {name: left_out[name] for name in dataset.class_names if name in other and left_out[name]}
    kept = tuple(sample for sample in tested if dataset.class_names[sample.label] not in unknown)
    what = "test " if every is None else ""
    words = _counted(replace(dataset, train=(), val=(), test=kept), what) if kept else "no test pictures"
    if every is not None:
        words += " without splits, all evaluated"
    elif dataset.seeded and not own and kept:
        words += ", those drawn by seed for testing, since others were used to fit this classifier"
    return kept, unknown, words


def _require_known(run: Run, name: str, kept: Sequence[object]) -> None:
    if not kept:
        raise InputError(
            f"data set {name!r} has no picture of a class that the classifier knows ({_some(run.class_names)}): "
            "evaluate on pictures of these."
        )


def _refuse_unknown(run: Run, dataset: Dataset, samples: Sequence[Sample], options: EvaluateOptions) -> None:
    counts = Counter(dataset.class_names[sample.label] for sample in samples)
    known = {class_name_of(name) for name in run.class_names}
    unknown = {name: counts[name] for name in dataset.class_names if counts[name] and class_name_of(name) not in known}
    _refuse_classes(run, dataset.name, unknown, len(samples), options)


def _refuse_classes(
    run: Run, name: str, unknown: Mapping[str, int], whole: int | None, options: EvaluateOptions
) -> None:
    """Raise :class:`InputError` for ``unknown`` classes, by pictures, unless they may be left out."""
    if not unknown or options.skip_unknown:
        return
    near = {class_name_of(each).casefold(): each for each in run.class_names}
    alike = [f"{each!r} may be its {near[each.casefold()]!r}; " for each in unknown if each.casefold() in near]
    of = "" if whole is None else f" of {whole}"
    raise InputError(
        f"data set {name!r} has classes that the classifier does not know ({_some(list(unknown))}; "
        f"{sum(unknown.values())}{of} pictures): {''.join(alike[:1])}name them as its own classes are, or leave them "
        "out with skip_unknown=True (--skip-unknown)."
    )


def _of_classes(dataset: Dataset, run: Run) -> Dataset:
    aligned = dataset.with_classes(run.class_names, leave_out=True)
    if aligned is None:
        raise InputError(
            f"data set {dataset.name!r} has classes whose names differ from the classifier's in underscores alone: "
            "name each class once."
        )
    return aligned


def _all(dataset: Dataset) -> tuple[Sample, ...]:
    return (*dataset.train, *dataset.val, *dataset.test)


def _counted(dataset: Dataset, what: str = "") -> str:
    """Of the test split: 40 pictures of 4 classes."""
    classes, number = len({sample.label for sample in dataset.test}), len(dataset.test)
    return f"{classes} class{'es' * (classes != 1)}, {number} {what}picture{'s' * (number != 1)}"


def _left_out(unknown: Mapping[str, int]) -> list[str]:
    if not unknown:
        return []
    number = sum(unknown.values())
    classes = f"{len(unknown)} class{'es' * (len(unknown) > 1)} that the classifier does not know"
    return [f"{number} picture{'s' * (number > 1)} of {classes} left out ({_some(list(unknown))})"]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _notes(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
