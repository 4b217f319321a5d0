"""Accuracy against certainty as a PNG: how far a certainty can be taken at its word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlmadapt.atomic import atomic_path
from vlmadapt.experiments.results import Cell, ProtocolResults
from vlmadapt.provenance.drawn import METADATA
from vlmadapt.provenance.intervals import NAME, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 5
BLUE, GREY = "#0072B2", "0.75"


def draw_reliability(results: ProtocolResults, path: str | Path) -> Path | None:
    """Write a panel a method to ``path`` (PNG): accuracy of the test pictures of each certainty, at the most shots.

    The pictures of all seeds are taken together; of several test sets the first is drawn. Bars are the interval of the
    pictures of a bin, those of one seed where there are several; below, the share of pictures in each. None where the
    results, being older, do not tell.
    """
    first, most = results.test_sets[0], results.shots[-1]
    panels: dict[str, list[Cell]] = {}
    for cell in results.cells:
        if cell.shots == most and cell.tested_on == first and cell.reliability is not None:
            panels.setdefault(cell.method, []).append(cell)
    if not panels:
        return None

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.75 * rows + 0.7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (method, cells) in zip(grid, panels.items(), strict=False):
        error = sum(cell.values["calibration_error"] for cell in cells) / len(cells)
        _draw(axes, [cell.reliability or () for cell in cells])
        axes.set_title(f"{method}  {100 * error:.1f} %".replace("$", r"\$"), fontsize=9)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(len(panels) - columns, 0) : len(panels)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    name = results.dataset["name"].replace("$", r"\$")
    seeds = len({cell.seed for cells in panels.values() for cell in cells})
    figure.suptitle(
        f"{name}, {most} shot{'s' * (most > 1)}, {seeds} seed{'s' * (seeds > 1)}: accuracy of pictures of a certainty; "
        f"calibration error in the titles\nbars: {NAME}; grey: the share of pictures, a quarter as high; "
        "dotted: as sure as right",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    figure.supxlabel("certainty, %", fontsize=9)
    figure.supylabel("accuracy, %", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata=METADATA["png"])
    return Path(path)


def _draw(axes: Axes, tables: Sequence[Sequence[Sequence[float]]]) -> None:
    bins = np.asarray(tables, dtype=float)  # [seeds, bins, 3]
    number, certainty, right = bins.sum(0).T
    some = number > 0
    x, y = certainty[some] / number[some], right[some] / number[some]
    around = [
        wilson(float(share), max(round(count / len(bins)), 1)) for share, count in zip(y, number[some], strict=True)
    ]
    axes.plot([0, 100], [0, 100], color="0.5", linestyle=":", linewidth=1)
    width = 100 / len(number)
    axes.bar(
        (np.arange(len(number)) + 0.5) * width,
        25 * number / max(number.sum(), 1),
        width=0.9 * width,
        color=GREY,
        zorder=0,
    )
    low = [100 * (share - interval.low) for share, interval in zip(y, around, strict=True)]
    high = [100 * (interval.high - share) for share, interval in zip(y, around, strict=True)]
    axes.errorbar(100 * x, 100 * y, yerr=[low, high], color=BLUE, marker="o", markersize=3.5, linewidth=1.2, capsize=2)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
