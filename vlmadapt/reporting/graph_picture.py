"""A picture of a class graph: classes around a circle, three nodes each, and the pairs that negatives pull apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.adapters.hegraph.graph import NEGATIVE, POSITIVE, VISUAL
from vlmadapt.adapters.hegraph.view import Edge, PulledPair
from vlmadapt.atomic import atomic_path
from vlmadapt.errors import InputError
from vlmadapt.provenance.drawn import METADATA
from vlmadapt.reporting.fonts import short, wide_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by the common kinds of colour blindness; shapes differ as well.
COLOURS = {POSITIVE: "#0072B2", NEGATIVE: "#D55E00", VISUAL: "#009E73"}
SHAPES = {POSITIVE: "o", NEGATIVE: "v", VISUAL: "s"}
LABELS = {POSITIVE: "positive text", NEGATIVE: "negative text", VISUAL: "pictures"}
FORMATS = {".png": "png", ".svg": "svg"}
INNER = 0.74  # radius of negative and visual nodes; positive ones lie on the unit circle
INK, FAINT = "#222222", "#8A8A8A"
LONGEST_NAME = 26


def check_picture_path(path: str | Path) -> str:
    """``"png"`` or ``"svg"`` by the file's suffix, or an :class:`InputError`."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"--out is {str(path)!r}: name a .png or .svg file.")
    return FORMATS[suffix]


def draw_graph(
    names: Sequence[str],
    classes: Sequence[int],
    edges: Sequence[Edge],
    pairs: Sequence[PulledPair],
    title: str,
    path: str | Path,
) -> Path:
    """Write the picture to ``path``, a PNG or SVG by its suffix.

    names: of all classes. classes: numbers of those drawn. edges: among them; solid where r > 0, dashed where r < 0,
    the wider the larger |r|, coloured by their source. pairs: listed beside, with cosines before and after.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = check_picture_path(path)
    with wide_fonts():
        figure = Figure(figsize=(12.0 if pairs else 8.0, 7.4), dpi=150)
        FigureCanvasAgg(figure)
        left = 0.64 if pairs else 0.98
        circle = figure.add_axes((0.0, 0.07, left, 0.86))
        _draw_circle(circle, names, classes, edges)
        if pairs:
            _draw_pairs(figure.add_axes((0.76, 0.17, 0.21, 0.62)), names, pairs)
            write: dict[str, Any] = {"ha": "left", "va": "top", "transform": figure.transFigure, "color": INK}
            figure.text(0.66, 0.895, "Pulled apart by negative nodes", fontsize=12.5, weight="bold", **write)
            below = "centred cosine of two classes' text nodes\nwithout (hollow) and with (filled) their message"
            figure.text(0.66, 0.858, below, fontsize=8.5, **{**write, "color": FAINT})
        figure.text(0.02, 0.97, short(title, 90), fontsize=14, weight="bold", color=INK, ha="left", va="top")
        _draw_legend(figure)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=METADATA[kind])
    return Path(path)


def _places(classes: Sequence[int]) -> dict[tuple[str, int], tuple[float, float]]:
    """Position of each (node type, class): clockwise from the top, a small triangle a class."""
    places = {}
    half = 0.21 * math.tau / max(len(classes), 4)
    for number, label in enumerate(classes):
        angle = math.tau / 4 - math.tau * number / len(classes)
        for node, radius, turn in ((POSITIVE, 1.0, 0.0), (NEGATIVE, INNER, half), (VISUAL, INNER, -half)):
            places[node, label] = (radius * math.cos(angle + turn), radius * math.sin(angle + turn))
    return places


def _draw_circle(axes: Axes, names: Sequence[str], classes: Sequence[int], edges: Sequence[Edge]) -> None:
    places = _places(classes)
    sizes = [abs(edge.weight) for edge in edges]
    low, high = min(sizes, default=0.0), max(sizes, default=1.0)
    for edge in sorted(edges, key=lambda one: abs(one.weight)):
        source, target = edge.kinds
        share = (abs(edge.weight) - low) / max(high - low, 1e-12)
        _draw_edge(axes, places[source, edge.source], places[target, edge.target], edge, COLOURS[source], share)
    for (node, _), (x, y) in places.items():
        size = 170 if node == POSITIVE else 105
        axes.scatter(
            [x], [y], s=size, marker=SHAPES[node], c=COLOURS[node], edgecolors="white", linewidths=1.4, zorder=5
        )
    for label in classes:
        x, y = places[POSITIVE, label]
        ha = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
        va = "center" if abs(y) < 0.85 else "bottom" if y > 0 else "top"
        axes.text(1.09 * x, 1.09 * y, short(names[label], LONGEST_NAME), ha=ha, va=va, fontsize=11, color=INK, zorder=6)
    axes.set_xlim(-1.62, 1.62)
    axes.set_ylim(-1.2, 1.2)
    axes.set_aspect("equal")
    axes.axis("off")


def _draw_edge(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], edge: Edge, colour: str, share: float
) -> None:
    """``share`` in [0, 1] is the strength among the edges drawn: width and opacity."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    # Bent towards the centre, the more the farther apart: parallel relations then separate.
    pull = 0.0 if edge.source == edge.target else 0.55
    bend = tuple((1 - pull) * (a + b) / 2 for a, b in zip(start, end, strict=True))
    axes.add_patch(
        PathPatch(
            Outline([start, bend, end], [Outline.MOVETO, Outline.CURVE3, Outline.CURVE3]),
            facecolor="none",
            edgecolor=colour,
            linewidth=0.7 + 2.6 * share,
            alpha=0.35 + 0.45 * share,
            linestyle="solid" if edge.weight > 0 else (0, (3.2, 2.2)),
            zorder=2,
        )
    )


def _draw_pairs(axes: Axes, names: Sequence[str], pairs: Sequence[PulledPair]) -> None:
    for row, pair in enumerate(pairs):
        ends = [pair.without, pair.with_negatives]
        axes.plot(ends, [row, row], color=COLOURS[NEGATIVE], linewidth=2.2, zorder=2, solid_capstyle="round")
        axes.scatter(ends[:1], [row], s=38, facecolors="white", edgecolors=COLOURS[NEGATIVE], linewidths=1.5, zorder=3)
        axes.scatter(ends[1:], [row], s=42, c=COLOURS[NEGATIVE], zorder=3)
    axes.set_yticks(
        range(len(pairs)),
        [f"{short(names[pair.first], 17)}\n{short(names[pair.second], 17)}" for pair in pairs],
        fontsize=8.5,
        linespacing=1.1,
    )
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.tick_params(length=0, labelsize=8.5)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("0.8")
    axes.locator_params(axis="x", nbins=4)


def _draw_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    nodes = [
        Line2D([], [], linestyle="", marker=SHAPES[node], color=COLOURS[node], markersize=9, label=LABELS[node])
        for node in (POSITIVE, NEGATIVE, VISUAL)
    ]
    lines = [
        Line2D([], [], color=FAINT, linewidth=2, label="r > 0"),
        Line2D([], [], color=FAINT, linewidth=2, linestyle=(0, (3.2, 2.2)), label="r < 0"),
        Line2D([], [], linestyle="", label="colour of a line: its source; width: |r|"),
    ]
    figure.legend(
        handles=[*nodes, *lines],
        loc="lower left",
        bbox_to_anchor=(0.01, 0.012),
        ncols=6,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handletextpad=0.5,
        columnspacing=1.3,
    )
