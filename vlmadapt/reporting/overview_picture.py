"""Methods over all data sets as PNGs: their ranks, and their cost beside their accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.atomic import atomic_path
from vlmadapt.experiments.overview import Standing
from vlmadapt.provenance.drawn import METADATA
from vlmadapt.reporting.curves import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF_A_METHOD = "0.25"
LEAST_SECONDS = 1e-3  # what is faster is drawn there


def draw_ranks(standings: Sequence[Standing], path: str | Path) -> Path:
    """A row a method, best mean rank first: its mean over the sets with one sample deviation, and a mark a set."""
    figure, axes = _figure(height=1.6 + 0.3 * len(standings))
    names = list(dict.fromkeys(name for standing in standings for name in standing.by_set))
    for row, standing in enumerate(standings):
        axes.errorbar(
            [standing.rank],
            [row],
            xerr=None if standing.spread is None else [standing.spread],
            color=OF_A_METHOD,
            marker="|",
            markersize=16,
            markeredgewidth=2.2,
            linewidth=1.4,
            capsize=3,
            zorder=2,
        )
    for number, name in enumerate(names):
        places = [(standing.by_set[name], row) for row, standing in enumerate(standings) if name in standing.by_set]
        axes.scatter(
            [rank for rank, _ in places],
            [row for _, row in places],
            s=24,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
            alpha=0.85,
            label=name.replace("$", r"\\$"),
            zorder=3,
        )
    axes.set_yticks(range(len(standings)), [f"{standing.method}  {standing.rank:.1f}" for standing in standings])
    axes.invert_yaxis()
    axes.set_xlabel("rank among the methods, 1 the best")
    axes.grid(axis="x", color="0.9")
    axes.set_title(
        "mean over sets; bars: sample deviation over sets and numbers of shots", loc="left", fontsize=9, color="0.35"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="mean rank on", alignment="left")
    return _save(figure, path)


def draw_cost(standings: Sequence[Standing], path: str | Path) -> Path:
    """A mark a method: seconds of a fit at the most shots (logarithmic) and mean accuracy over the sets."""
    figure, axes = _figure(height=5.0)
    for number, standing in enumerate(sorted(standings, key=lambda each: -each.accuracy)):
        around, position = divmod(number, len(COLOURS))
        place = max(standing.fit_seconds, LEAST_SECONDS), 100 * standing.accuracy
        axes.scatter(
            [place[0]],
            [place[1]],
            color=COLOURS[position],
            marker=MARKERS[(position + 3 * around) % len(MARKERS)],
            s=42,
            label=f"{standing.method}  {place[1]:.1f}, {standing.fit_seconds:.2g} s",
        )
    axes.set_xscale("log")
    axes.set_xlabel("seconds of one fit at the most shots, median over the sets")
    axes.set_ylabel("mean test accuracy, %")
    axes.grid(color="0.9")
    axes.set_title("mean over numbers of shots, then over sets", loc="left", fontsize=9, color="0.35")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, alignment="left")
    return _save(figure, path)


def _figure(height: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: str | Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata=METADATA["png"])
    return Path(path)
