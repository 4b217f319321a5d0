"""The results of tuning generative models, the files they are written to, and their table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlmadapt.errors import FileError, InputError
from vlmadapt.files import read_json, write_csv, write_json
from vlmadapt.reporting.table import Table

FORMAT = 1
SELECTION = (
    "Every method sees the same training records of a seed, and the same validation and test records. The epoch is the "
    "best on validation (greedy decoding where texts are generated); the initial state takes part. The test split is "
    "read once, after every method has been fitted. Mean and sample standard deviation over the seeds."
)
TITLES = {"cider": "CIDEr", "bleu4": "BLEU-4", "accuracy": "accuracy"}


@dataclass(frozen=True)
class TuningCell:
    """One fit: a method with one seed. Measures are fractions; ``by_kind`` has the main one by type of question."""

    method: str
    adapter: str
    seed: int
    split_hash: str
    validation: float
    test: Mapping[str, float]
    best_epoch: int
    trainable_parameters: int
    seconds_per_step: float | None
    fit_seconds: float
    peak_memory_mib: float
    by_kind: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TuningResults:
    """``data``, ``model``, ``protocol`` and ``versions`` are plain JSON values that say what was run.

    ``methods`` maps a method's label to its full configuration.
    """

    task: str
    metric: str
    data: dict[str, Any]
    model: dict[str, Any]
    protocol: dict[str, Any]
    versions: dict[str, str]
    methods: dict[str, dict[str, Any]]
    cells: tuple[TuningCell, ...]

    def of(self, method: str) -> list[TuningCell]:
        return [cell for cell in self.cells if cell.method == method]

    def mean(self, method: str, measure: str) -> tuple[float, float | None]:
        """Mean over the seeds and sample deviation (None with one seed)."""
        values = [cell.test[measure] for cell in self.of(method)]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``results.json`` and ``results.csv`` into ``folder``; returns their paths."""
        json_path, csv_path = Path(folder) / "results.json", Path(folder) / "results.csv"
        write_json(json_path, {"format": FORMAT, **asdict(self)})
        measures = list(self.cells[0].test)
        header = ["task", "data", "model", "method", "seed", *(f"test_{name}" for name in measures), "validation"]
        header += ["best_epoch", "trainable_parameters", "seconds_per_step", "fit_seconds", "peak_memory_mib"]
        header += ["split_hash", "config", "selection_protocol", *self.versions]
        write_csv(csv_path, header, [self._csv_row(cell, measures) for cell in self.cells])
        return json_path, csv_path

    def _csv_row(self, cell: TuningCell, measures: Sequence[str]) -> list[Any]:
        return [
            self.task,
            self.data["name"],
            self.model["name"],
            cell.method,
            cell.seed,
            *(cell.test[name] for name in measures),
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
        path = Path(folder) / "results.json"
        value = read_json(path)
        try:
            if value.pop("format") != FORMAT:
                raise KeyError("format")
            cells = tuple(TuningCell(**cell) for cell in value.pop("cells"))
            return cls(cells=cells, **value)
        except (KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{path} is not a results file of vlmadapt tune: {error}.") from error


def merge_results(parts: Sequence[TuningResults]) -> TuningResults:
    """One table from runs of different methods. Raises :class:`InputError` when they differ in anything else."""
    first = parts[0]
    for part in parts[1:]:
        for name in ("task", "data", "model", "protocol", "versions"):
            if getattr(part, name) != getattr(first, name):
                raise InputError(f"results differ in {name}: {getattr(first, name)} and {getattr(part, name)}.")
    methods = {label: config for part in parts for label, config in part.methods.items()}
    cells = tuple(cell for part in parts for cell in part.cells)
    return TuningResults(
        first.task, first.metric, first.data, first.model, first.protocol, first.versions, methods, cells
    )


def tuning_table(results: TuningResults) -> Table:
    """Test measures, trained parameters, seconds a step and peak memory: one row a method."""
    measures = list(results.cells[0].test)
    rows = []
    for method in results.methods:
        cells = results.of(method)
        steps = [cell.seconds_per_step for cell in cells if cell.seconds_per_step is not None]
        rows.append(
            [
                method,
                *(_percent(*results.mean(method, measure)) for measure in measures),
                f"{cells[0].trainable_parameters:,}",
                f"{statistics.fmean(steps):.3f}" if steps else "-",
                f"{statistics.fmean(cell.fit_seconds for cell in cells):.1f}" if steps else "-",
                f"{max(cell.peak_memory_mib for cell in cells):,.0f}" if steps else "-",
            ]
        )
    best = {
        (row, column)
        for column, measure in enumerate(measures, start=1)
        for row, method in enumerate(results.methods)
        if results.mean(method, measure)[0] == max(results.mean(other, measure)[0] for other in results.methods)
    }
    seeds = results.protocol["seeds"]
    over = f"mean ± sample deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]} only"
    counts = results.data["records"]
    titles = [TITLES.get(measure, measure) for measure in measures]
    return Table(
        title=f"{results.data['name']}, {results.task}, model {results.model['name']}: test {titles[0]} in %",
        header=["method", *titles, "trained", "s a step", "fit s", "peak MiB"],
        rows=rows,
        notes=[
            f"{counts['train']:,} training, {counts['val']:,} validation and {counts['test']:,} test records; {over}.",
            results.protocol["selection"],
        ],
        bold=frozenset(best),
    )


def _percent(mean: float, deviation: float | None) -> str:
    return f"{100 * mean:.1f}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"
