"""What few-shot and tuning results share: their files, and figures over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlmadapt.errors import FileError
from vlmadapt.files import check_format, read_json, write_csv, write_versioned
from vlmadapt.seals import unsealed

FORMAT = 1

PREFIX = "test_"  # of a measure's name in files

Results = TypeVar("Results")
AnyCell = TypeVar("AnyCell", bound="Cell")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit of a method with one seed; ``values`` are its measures on the test split, by name."""

    method: str
    adapter: str
    seed: int
    split_hash: str
    values: Mapping[str, float]
    trainable_parameters: int
    fit_seconds: float
    peak_memory_mib: float

    def as_json(self) -> dict[str, Any]:
        """The cell in a file: each measure an entry of its own, ``test_accuracy``."""
        value = asdict(self)
        return {**{PREFIX + name: number for name, number in value.pop("values").items()}, **value}

    @classmethod
    def from_json(cls: type[AnyCell], value: Mapping[str, Any]) -> AnyCell:
        """What :meth:`as_json` gave. Raises :class:`TypeError` for an entry that is missing or not known."""
        values = {name.removeprefix(PREFIX): number for name, number in value.items() if name.startswith(PREFIX)}
        if not values:
            raise TypeError("a fit has no measure")
        return cls(values=values, **{name: entry for name, entry in value.items() if not name.startswith(PREFIX)})


def measures_of(cells: Sequence[Cell]) -> list[str]:
    """Names of the measures, in their order: all cells have the same."""
    return list(cells[0].values)


def mean_over(cells: Iterable[Cell], measure: str) -> tuple[float, float | None]:
    """Mean of a measure over ``cells``, which differ in the seed, and its sample deviation."""
    return mean_and_deviation([cell.values[measure] for cell in cells])


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample deviation; the latter is None for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(mean: float, deviation: float | None) -> str:
    return f"{100 * mean:.1f}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def chance(value: float) -> str:
    """A probability in per cent: never "100.0 %", which nothing that was learned can be."""
    if value >= 0.9995:
        return ">99.9 %"
    return "<0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def over_seeds(seeds: Sequence[int]) -> str:
    """What the figures of a table are taken over."""
    return f"mean ± sample deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]} only"


def best_places(columns: Iterable[Sequence[float]]) -> frozenset[tuple[int, int]]:
    """(row, column) of the largest figures of each column; the first column of a table holds names."""
    return frozenset(
        (row, place)
        for place, column in enumerate(columns, start=1)
        for row, value in enumerate(column)
        if value == max(column)
    )


def save_results(
    folder: str | Path, value: Mapping[str, Any], header: Sequence[str], rows: Sequence[Sequence[Any]]
) -> tuple[Path, Path]:
    """Write ``results.json`` and ``results.csv`` into ``folder``; returns their paths."""
    json_path, csv_path = Path(folder) / "results.json", Path(folder) / "results.csv"
    write_versioned(json_path, value, FORMAT)
    write_csv(csv_path, header, rows)
    return json_path, csv_path


def load_results(folder: str | Path, owner: str, make: Callable[[dict[str, Any]], Results]) -> Results:
    """``make`` of what ``results.json`` holds. Raises :class:`FileError` naming the file when ``owner`` wrote none."""
    path = Path(folder) / "results.json"
    value = read_json(path)
    try:
        check_format(path, value["format"], FORMAT, f"run {owner} again")
        content = unsealed(path, value, f"run {owner} again")
        del content["format"]
        return make(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{path} is not a results file of {owner}: {error}.") from error
