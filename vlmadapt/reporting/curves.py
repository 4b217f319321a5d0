"""Accuracy against shots as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.atomic import atomic_path
from vlmadapt.experiments.results import ProtocolResults, Summary
from vlmadapt.provenance.drawn import METADATA
from vlmadapt.provenance.intervals import NAME

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which the common kinds of colour blindness keep apart; markers differ as well, so that the
# lines can be told from one another in grey.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
REFERENCE = "zero-shot"  # drawn as a grey dashed line: it sees no shots


def draw_curves(results: ProtocolResults, path: str | Path) -> Path:
    """Write the curves of ``results`` to ``path`` (PNG): one line a method, bars of one sample deviation.

    Of several test sets the first is drawn. The shots axis is logarithmic to base 2. The legend stands beside the axes,
    in the order of the lines' right ends.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shots = results.shots
    ends: dict[str, tuple[Summary, Any]] = {}
    drawn = 0
    for method in results.methods:
        line = [results.of(method, count) for count in shots]
        if method == REFERENCE:
            handle = axes.axhline(100 * line[-1].mean, color="0.45", linestyle=(0, (5, 3)), linewidth=1.6)
        else:
            handle = _draw_line(axes, line, drawn)
            drawn += 1
        ends[method] = (line[-1], handle)
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.minorticks_off()
    if len(shots) > 1:
        axes.set_xlim(shots[0] / 1.15, shots[-1] * 1.15)
    axes.set_xlabel("training pictures a class (shots)")
    axes.set_ylabel("test accuracy, %")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    seeds = results.protocol["seeds"]
    spread = f"mean and sample deviation of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    below = f"{spread}; encoder {results.encoder['name']}".replace("$", r"\$")
    axes.set_title(below, loc="left", fontsize=9, color="0.35")
    name = results.dataset["name"].replace("$", r"\$")
    first = results.test_sets[0]
    tested = "" if first is None else f", tested on {first}".replace("$", r"\$")
    figure.suptitle(f"{name}, {results.dataset['classes']} classes{tested}", x=0.01, ha="left", fontsize=13)
    order = sorted(ends, key=lambda method: -ends[method][0].mean)
    axes.legend(
        [ends[method][1] for method in order],
        [f"{method}  {100 * ends[method][0].mean:.1f} {ends[method][0].interval}" for method in order],
        title=f"at {shots[-1]} shot{'s' * (shots[-1] > 1)} [{NAME}]",
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        alignment="left",
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata=METADATA["png"])
    return Path(path)


def _draw_line(axes: Axes, line: list[Summary], index: int) -> Any:
    # Past the seventh method colours return, on broken lines with other markers.
    around, position = divmod(index, len(COLOURS))
    colour, marker = COLOURS[position], MARKERS[(position + 3 * around) % len(MARKERS)]
    # Neighbouring methods often tie: a small shift along the shots axis keeps their bars apart.
    shift = 1.0 + 0.012 * (index % len(COLOURS) - 2)
    return axes.errorbar(
        [summary.shots * shift for summary in line],
        [100 * summary.mean for summary in line],
        yerr=None if line[0].std is None else [100 * (summary.std or 0.0) for summary in line],
        color=colour,
        marker=marker,
        linestyle="-" if around == 0 else (0, (4, 1.5)),
        markersize=5.5,
        linewidth=1.8,
        elinewidth=1.0,
        capsize=2.5,
    )
