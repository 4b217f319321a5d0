"""What few-shot and tuning results share: their files, and figures over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vlmadapt.errors import FileError
from vlmadapt.files import check_format, read_json, write_csv, write_versioned

FORMAT = 1

Results = TypeVar("Results")


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample deviation; the latter is None for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(mean: float, deviation: float | None) -> str:
    return f"{100 * mean:.1f}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"


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
        check_format(path, value.pop("format"), FORMAT, f"run {owner} again")
        return make(value)
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path} is not a results file of {owner}: {error}.") from error
