"""The results of a protocol run and the two files they are written to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlmadapt.reporting.cells import load_results, mean_and_deviation, save_results

SELECTION = (
    "Few-shot protocol: every method sees the same sampled training and validation images. Hyper-parameters and the "
    "number of epochs are chosen on the validation images only (min(shots, 4) a class). The test split is read once, "
    "after every method has been fitted. Mean and sample standard deviation over the seeds."
)


@dataclass(frozen=True)
class Cell:
    """One fit: a method at one number of shots with one seed. Accuracies are fractions; memory is in MiB."""

    method: str
    adapter: str
    shots: int
    seed: int
    split_hash: str
    val_accuracy: float | None
    test_accuracy: float
    trainable_parameters: int
    fit_seconds: float
    peak_memory_mib: float
    selected: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """A method at one number of shots over the seeds; ``std`` is the sample deviation, None with one seed."""

    method: str
    shots: int
    seeds: int
    mean: float
    std: float | None
    trainable_parameters: int
    fit_seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class ProtocolResults:
    """``dataset``, ``encoder``, ``protocol`` and ``versions`` are plain JSON values that say what was run.

    ``methods`` maps a method's label to its full configuration; ``cells`` holds one entry a fit.
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

    def of(self, method: str, shots: int) -> Summary:
        """Mean and deviation over the seeds; fit time is the mean, memory the largest."""
        cells = [cell for cell in self.cells if cell.method == method and cell.shots == shots]
        mean, std = mean_and_deviation([cell.test_accuracy for cell in cells])
        return Summary(
            method=method,
            shots=shots,
            seeds=len(cells),
            mean=mean,
            std=std,
            trainable_parameters=cells[0].trainable_parameters,
            fit_seconds=statistics.fmean(cell.fit_seconds for cell in cells),
            peak_memory_mib=max(cell.peak_memory_mib for cell in cells),
        )

    def summary(self) -> list[Summary]:
        return [self.of(method, shots) for method in self.methods for shots in self.shots]

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``results.json`` and ``results.csv`` into ``folder``; returns their paths."""
        value = {**asdict(self), "summary": [asdict(line) for line in self.summary()]}
        return save_results(folder, value, CSV_HEADER, [self._csv_row(cell) for cell in self.cells])

    def _csv_row(self, cell: Cell) -> list[Any]:
        return [
            self.dataset["name"],
            self.encoder["name"],
            self.encoder["fingerprint"],
            cell.method,
            cell.shots,
            cell.seed,
            cell.test_accuracy,
            cell.val_accuracy,
            cell.trainable_parameters,
            round(cell.fit_seconds, 3),
            round(cell.peak_memory_mib, 1),
            cell.split_hash,
            json.dumps(self.methods[cell.method]),
            json.dumps(dict(cell.selected)),
            self.protocol["selection"],
            *self.versions.values(),
        ]

    @classmethod
    def load(cls, folder: str | Path) -> ProtocolResults:
        """Read ``results.json`` back. Raises :class:`FileError` naming the file when it is not one of ours."""

        def make(value: dict[str, Any]) -> ProtocolResults:
            parts = {name: value[name] for name in ("dataset", "encoder", "protocol", "versions", "methods")}
            return cls(cells=tuple(Cell(**cell) for cell in value["cells"]), **parts)

        return load_results(folder, "vlmadapt compare or eval", make)


CSV_HEADER = (
    "dataset",
    "encoder",
    "encoder_fingerprint",
    "method",
    "shots",
    "seed",
    "test_accuracy",
    "val_accuracy",
    "trainable_parameters",
    "fit_seconds",
    "peak_memory_mib",
    "split_hash",
    "config",
    "selected",
    "selection_protocol",
    "vlmadapt",
    "torch",
    "python",
    "platform",
)
