"""The results of tuning generative models, and the files they are written to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmadapt.errors import InputError
from vlmadapt.provenance.means import Cell, load_results, mean_over, measures_of, save_results

SELECTION = (
    "Every method sees the same training records of a seed, and the same validation and test records. The epoch is the "
    "best on validation (greedy decoding where texts are generated); the initial state takes part. The test split is "
    "read once, after every method has been fitted. Mean and sample standard deviation over the seeds."
)
TITLES = {"cider": "CIDEr", "bleu4": "BLEU-4", "accuracy": "accuracy"}


@dataclass(frozen=True, kw_only=True)
class TuningCell(Cell):
    """One fit. ``validation`` and ``by_kind`` are of the main measure, the latter by type of question."""

    validation: float
    best_epoch: int
    seconds_per_step: float | None
    by_kind: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        value = asdict(self)
        return {"test": value.pop("values"), **value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TuningCell:
        rest = dict(value)
        return cls(values=rest.pop("test"), **rest)


@dataclass(frozen=True)
class TuningResults:
    """``data``, ``model``, ``protocol`` and ``versions`` are plain JSON values that say what was run.

    ``methods`` maps a method's label to its full configuration. ``prior`` holds the measures, ``prior_by_kind`` the
    main one by type of question, of what is right most often in training
    (:mod:`vlmadapt.generative.tasks.prior`); empty in files of 0.1.0.
    """

    task: str
    metric: str
    data: dict[str, Any]
    model: dict[str, Any]
    protocol: dict[str, Any]
    versions: dict[str, str]
    methods: dict[str, dict[str, Any]]
    cells: tuple[TuningCell, ...]
    prior: dict[str, float] = field(default_factory=dict)
    prior_by_kind: dict[str, float] = field(default_factory=dict)

    def of(self, method: str) -> list[TuningCell]:
        """The fits of ``method``, one a seed."""
        return [cell for cell in self.cells if cell.method == method]

    def mean(self, method: str, measure: str) -> tuple[float, float | None]:
        """Mean over the seeds and sample deviation (None with one seed)."""
        return mean_over(self.of(method), measure)

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``results.json`` and ``results.csv`` into ``folder``; returns their paths."""
        measures = measures_of(self.cells)
        header = ["task", "data", "model", "method", "seed", *(f"test_{name}" for name in measures), "validation"]
        header += ["best_epoch", "trainable_parameters", "seconds_per_step", "fit_seconds", "peak_memory_mib"]
        header += ["split_hash", "config", "selection_protocol", *self.versions]
        value = {**asdict(self), "cells": [cell.as_json() for cell in self.cells]}
        return save_results(folder, value, header, [self._csv_row(cell, measures) for cell in self.cells])

    def _csv_row(self, cell: TuningCell, measures: Sequence[str]) -> list[Any]:
        return [
            self.task,
            self.data["name"],
            self.model["name"],
            cell.method,
            cell.seed,
            *(cell.values[name] for name in measures),
            cell.validation,
            cell.best_epoch,
            cell.trainable_parameters,
            cell.seconds_per_step,
            round(cell.fit_seconds, 3),
            round(cell.peak_memory_mib, 1),
            cell.split_hash,
            json.dumps(self.methods[cell.method]),
            self.protocol["selection"],
            *self.versions.values(),
        ]

    @classmethod
    def load(cls, folder: str | Path) -> TuningResults:
        """Read ``results.json`` back. Raises :class:`FileError` naming the file when it is not one of ours."""
        return load_results(
            folder,
            "vlmadapt tune",
            lambda value: cls(**{**value, "cells": tuple(TuningCell.from_json(cell) for cell in value["cells"])}),
        )


def merge_results(parts: Sequence[TuningResults]) -> TuningResults:
    """One table from runs of different methods. Raises :class:`InputError` when they differ in anything else."""
    first = parts[0]
    for part in parts[1:]:
        for name in ("task", "data", "model", "protocol", "versions", "prior", "prior_by_kind"):
            if getattr(part, name) != getattr(first, name):
                raise InputError(f"results differ in {name}: {getattr(first, name)} and {getattr(part, name)}.")
    methods = {label: config for part in parts for label, config in part.methods.items()}
    cells = tuple(cell for part in parts for cell in part.cells)
    return replace(first, methods=methods, cells=cells)
