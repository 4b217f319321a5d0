"""The results of a protocol run and the two files they are written to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlmadapt.adapters import ADAPTERS
from vlmadapt.atomic import remove_file
from vlmadapt.errors import MissingDependency
from vlmadapt.experiments.answers import unpack_classes
from vlmadapt.experiments.measures import ANSWERED, MAIN
from vlmadapt.experiments.paired import Gain
from vlmadapt.experiments.protocols import DEFAULT, Protocol
from vlmadapt.experiments.rights import unpack
from vlmadapt.files import write_csv
from vlmadapt.provenance import means
from vlmadapt.provenance.bootstrap import drawn, interval_of
from vlmadapt.provenance.intervals import Interval, wilson

REFERENCE = "tip-adapter-f"
AGAINST = "against"  # in ``protocol``: the method that differences were asked for to
DIFFERENCES = "differences.csv"
INTERVAL = "accuracy_interval"  # of a fit in files: follows from the others
ON_ALL = " Methods that weigh others by held-out images ({}) train on the validation images too."


def selection(protocol: Protocol, adapters: Iterable[str]) -> str:
    """How choices are made in fits of ``adapters`` under ``protocol``, in words."""
    on_all = [name for name in dict.fromkeys(adapters) if name in ADAPTERS and ADAPTERS[name].trains_on_validation]
    return protocol.words + (
        ON_ALL.format(", ".join(on_all)) if on_all and protocol.holds_out and not protocol.trains_on_all else ""
    )


@dataclass(frozen=True, kw_only=True)
class Cell(means.Cell):
    """One fit, at one number of shots; ``val_accuracy`` is None without validation pictures, and on held-out ones of a
    method that trains on them too. ``right`` holds which test pictures were answered rightly
    (:mod:`vlmadapt.experiments.rights`), ``predicted`` their classes (:mod:`vlmadapt.experiments.answers`),
    ``reliability`` counts them by certainty
    (:func:`vlmadapt.experiments.measures.reliability`), ``train_hash`` tells the training pictures: None in files that
    note none of them.
    ``tested_on`` names the test set where there are several; ``answered_by`` is the adapter that stood in where the
    method is bound to other classes than those of the test set, else None.
    """

    shots: int
    val_accuracy: float | None
    selected: Mapping[str, Any] = field(default_factory=dict)
    train_hash: str | None = None
    right: str | None = None
    predicted: str | None = None
    reliability: Sequence[Sequence[float]] | None = None
    tested_on: str | None = None
    answered_by: str | None = None

    @property
    def accuracy(self) -> float:
        """The share of test pictures that were answered rightly."""
        return self.values[MAIN]


@dataclass(frozen=True)
class Summary:
    """A method at one number of shots over the seeds: one measure's mean and sample deviation (None with one seed).

    ``interval`` is that of an accuracy, of its test pictures. ``one_draw``: the seeds had the same pictures to see, or
    saw none, so that their deviation says nothing about another draw.
    """

    method: str
    shots: int
    tested_on: str | None
    answered_by: str | None
    seeds: int
    mean: float
    std: float | None
    interval: Interval | None
    one_draw: bool
    trainable_parameters: int
    fit_seconds: float
    peak_memory_mib: float


class Truth(NamedTuple):
    """Names of ``C`` classes, and which of them each test picture is of: int64 ``[n]``."""

    class_names: tuple[str, ...]
    labels: Tensor


@dataclass(frozen=True)
class ProtocolResults:
    """``dataset``, ``encoder``, ``protocol`` and ``versions`` are plain JSON values that say what was run.

    Of a comparison, ``dataset`` holds the names of the classes and the class of each test picture too, of several test
    sets each its own. ``methods`` maps a method's label to its full configuration; ``cells`` holds one entry a fit.
    """

    dataset: dict[str, Any]
    encoder: dict[str, Any]
    protocol: dict[str, Any]
    versions: dict[str, str]
    methods: dict[str, dict[str, Any]]
    cells: tuple[Cell, ...]

    @property
    def shots(self) -> tuple[int, ...]:
        return tuple(sorted({cell.shots for cell in self.cells}))

    @property
    def protocol_name(self) -> str:
        """A key of ``PROTOCOLS``; files of 0.1.0 are of the one that there was."""
        return str(self.protocol.get("protocol", DEFAULT))

    @property
    def reference(self) -> str:
        """The method that differences are taken to: the one asked for, else ``REFERENCE`` where it takes part, else the
        first."""
        asked = self.protocol.get(AGAINST)
        if asked is not None:
            return str(asked)
        return REFERENCE if REFERENCE in self.methods else next(iter(self.methods))

    @property
    def same_draws(self) -> dict[int, list[list[int]]]:
        """By shots: groups of seeds that drew the same pictures, so that their figures do not tell of the draw."""
        found: dict[int, list[list[int]]] = {}
        for count in self.shots:
            seeds: dict[str, set[int]] = {}
            for cell in self.cells:
                if cell.shots == count:
                    seeds.setdefault(cell.split_hash, set()).add(cell.seed)
            groups = [sorted(group) for group in seeds.values() if len(group) > 1]
            if groups:
                found[count] = sorted(groups)
        return found

    @property
    def measures(self) -> list[str]:
        return means.measures_of(self.cells)

    @property
    def test_sets(self) -> tuple[str | None, ...]:
        """What was tested on, in order: one None where it is the test split of the data alone."""
        return tuple(dict.fromkeys(cell.tested_on for cell in self.cells))

    def pictures(self, tested_on: str | None = None) -> int:
        """How many test pictures there are, in all or in one of ``test_sets``."""
        if tested_on is None:
            return int(self.dataset["test"])
        return next(int(each["test"]) for each in self.dataset["tests"] if each["name"] == tested_on)

    def cells_of(self, method: str, shots: int, tested_on: str | None = None) -> list[Cell]:
        """The fits of a method, one a seed, as tested on one of ``test_sets``, by default the first."""
        place = self.test_sets[0] if tested_on is None else tested_on
        return [cell for cell in self.cells if (cell.method, cell.shots, cell.tested_on) == (method, shots, place)]

    def of(self, method: str, shots: int, measure: str = MAIN, tested_on: str | None = None) -> Summary:
        """Mean and deviation of a measure over the seeds; fit time is the mean, memory the largest."""
        cells = self.cells_of(method, shots, tested_on)
        mean, std = means.mean_over(cells, measure)
        return Summary(
            method=method,
            shots=shots,
            tested_on=cells[0].tested_on,
            answered_by=cells[0].answered_by,
            seeds=len(cells),
            mean=mean,
            std=std,
            interval=self._interval(cells, measure, mean),
            one_draw=_one_draw(cells, measure),
            trainable_parameters=cells[0].trainable_parameters,
            fit_seconds=statistics.fmean(cell.fit_seconds for cell in cells),
            peak_memory_mib=max(cell.peak_memory_mib for cell in cells),
        )

    def right(self, cell: Cell) -> Tensor | None:
        """``[n]``, bool: which test pictures ``cell`` answered rightly, in their order; None where it is not known."""
        return None if cell.right is None else unpack(cell.right, self.pictures(cell.tested_on))

    def truth(self, tested_on: str | None = None) -> Truth | None:
        """The classes of the test pictures, in all or in one of ``test_sets``; None in files that do not hold them."""
        about = self.dataset
        if tested_on is not None:
            about = next(each for each in self.dataset["tests"] if each["name"] == tested_on)
        if "labels" not in about:
            return None
        names = tuple(map(str, about["class_names"]))
        return Truth(names, unpack_classes(about["labels"], self.pictures(tested_on), len(names)))

    def predicted(self, cell: Cell) -> Tensor | None:
        """``[n]``, int64: the class that ``cell`` gave to each test picture; None where it is not known."""
        truth = self.truth(cell.tested_on)
        if truth is None or cell.predicted is None:
            return None
        return unpack_classes(cell.predicted, len(truth.labels), len(truth.class_names))

    def gains(self, reference: str | None = None, tested_on: str | None = None) -> list[Gain]:
        """Paired differences of accuracy of all other methods to ``reference``, at every number of shots.

        reference: a method, by default :attr:`reference`. tested_on: one of ``test_sets``, by default the first.
        """
        base = self.reference if reference is None else reference
        place = self.test_sets[0] if tested_on is None else tested_on
        others = [name for name in self.methods if name != base]
        return [self._gain(method, base, shots, place) for shots in self.shots for method in others]

    def pairs(self) -> list[Gain]:
        """:meth:`gains` of every method to every one before it, on every test set, at every number of shots."""
        names = list(self.methods)
        return [
            self._gain(method, reference, shots, place)
            for place in self.test_sets
            for shots in self.shots
            for number, method in enumerate(names)
            for reference in names[:number]
        ]

    def _gain(self, method: str, reference: str, shots: int, place: str | None) -> Gain:
        mine, base = (self.of(name, shots, tested_on=place) for name in (method, reference))
        draws = self.draws(shots, place)
        interval = None if draws is None else interval_of(draws[method] - draws[reference])
        return Gain(method, reference, shots, place, mine.seeds, mine.mean - base.mean, interval)

    def draws(self, shots: int, tested_on: str | None = None) -> Mapping[str, Tensor] | None:
        """Accuracies of each method, means over seeds and pictures drawn anew (:mod:`vlmadapt.experiments.paired`).

        The draws are the same for all methods. None for results that did not keep which pictures were right.
        """
        place = self.test_sets[0] if tested_on is None else tested_on
        if (shots, place) not in self._drawn:
            cells = [cell for method in self.methods for cell in self.cells_of(method, shots, place)]
            rights = [right for right in map(self.right, cells) if right is not None]
            self._drawn[shots, place] = None
            if len(rights) == len(cells):
                values = torch.stack(rights).reshape(len(self.methods), -1, len(rights[0]))
                together = drawn(values, self.test_sets.index(place))  # pictures of other sets are drawn apart
                self._drawn[shots, place] = dict(zip(self.methods, together, strict=True))
        return self._drawn[shots, place]

    @cached_property
    def _drawn(self) -> dict[tuple[int, str | None], dict[str, Tensor] | None]:
        return {}

    def summary(self) -> list[Summary]:
        """Of every method, number of shots and test set."""
        return [
            self.of(method, shots, tested_on=place)
            for place in self.test_sets
            for method in self.methods
            for shots in self.shots
        ]

    @property
    def frame(self) -> Any:
        """The rows of ``results.csv`` as a data frame of pandas: one a fit and test set.

        Raises :class:`MissingDependency` without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependency("a data frame needs pandas: run pip install pandas, or use summary().") from error
        return pandas.DataFrame([self._csv_row(cell) for cell in self.cells])

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``results.json``, ``results.csv`` and, of several methods, ``differences.csv`` into ``folder``; returns
        the first two paths."""
        value = {
            **asdict(self),
            "cells": [{**cell.as_json(), INTERVAL: self.interval(cell)} for cell in self.cells],
            "same_draws": [{"shots": count, "seeds": groups} for count, groups in self.same_draws.items()],
            "summary": [asdict(line) for line in self.summary()],
            "differences": [asdict(gain) for place in self.test_sets for gain in self.gains(tested_on=place)],
        }
        if len(self.methods) > 1:
            header = ["method", "reference", "shots", "tested_on", "seeds", "difference", "low", "high"]
            differences = [[*astuple(gain)[:-1], *(gain.interval or ("", ""))] for gain in self.pairs()]
            write_csv(Path(folder) / DIFFERENCES, header, differences)
        else:
            remove_file(Path(folder) / DIFFERENCES)  # of results that these replace
        rows = [self._csv_row(cell) for cell in self.cells]
        return means.save_results(folder, value, list(rows[0]), [list(row.values()) for row in rows])

    def _interval(self, cells: Sequence[Cell], measure: str, mean: float) -> Interval | None:
        """Of the mean of an accuracy on the pictures of one test set, or on those of them that were answered."""
        number = self.pictures(cells[0].tested_on)
        if measure == ANSWERED:
            return wilson(mean, round(number * (1 - statistics.fmean(cell.values["abstained"] for cell in cells))))
        return wilson(mean, number) if measure == MAIN else None

    def interval(self, cell: Cell) -> Interval:
        """Of the accuracy of one fit, by the number of test pictures."""
        return wilson(cell.accuracy, self.pictures(cell.tested_on))

    def _csv_row(self, cell: Cell) -> dict[str, Any]:
        interval = self.interval(cell)
        return {
            "dataset": self.dataset["name"],
            "encoder": self.encoder["name"],
            "encoder_fingerprint": self.encoder["fingerprint"],
            "method": cell.method,
            "shots": cell.shots,
            "seed": cell.seed,
            **({} if cell.tested_on is None else {"tested_on": cell.tested_on, "answered_by": cell.answered_by}),
            **{means.PREFIX + name: value for name, value in cell.values.items()},
            f"{means.PREFIX}{MAIN}_low": interval.low,
            f"{means.PREFIX}{MAIN}_high": interval.high,
            "val_accuracy": cell.val_accuracy,
            "trainable_parameters": cell.trainable_parameters,
            "fit_seconds": round(cell.fit_seconds, 3),
            "peak_memory_mib": round(cell.peak_memory_mib, 1),
            "split_hash": cell.split_hash,
            "config": json.dumps(self.methods[cell.method]),
            "selected": json.dumps(dict(cell.selected)),
            "protocol": self.protocol_name,
            "selection_protocol": self.protocol["selection"],
            **self.versions,
        }

    @classmethod
    def load(cls, folder: str | Path) -> ProtocolResults:
        """Read ``results.json`` back. Raises :class:`FileError` naming the file when it is not one of ours."""

        def make(value: dict[str, Any]) -> ProtocolResults:
            parts = {name: value[name] for name in ("dataset", "encoder", "protocol", "versions", "methods")}
            cells = [{name: entry for name, entry in cell.items() if name != INTERVAL} for cell in value["cells"]]
            results = cls(cells=tuple(map(Cell.from_json, cells)), **parts)
            for cell in results.cells:
                results.right(cell)  # refuses what is damaged
                results.predicted(cell)
            return results

        return means.load_results(folder, "vlmadapt compare or eval", make)


def _one_draw(cells: Sequence[Cell], measure: str) -> bool:
    """Whether the seeds of ``cells`` had no draw to differ by."""
    kind = ADAPTERS.get(cells[0].answered_by or cells[0].adapter)
    blind = kind is not None and not kind.learns and measure == MAIN  # calibration is learned from validation pictures
    return len(cells) > 1 and (blind or len({cell.split_hash for cell in cells}) == 1)
