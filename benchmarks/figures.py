"""Figures of the benchmarks page: speed-ups a race, and log-log curves with the slope that theory says."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.results import CEILINGS, Group

COLOURS = {
    "ours": "#0b6e4f",
    "released": "#c8553d",
    "eager": "#588b8b",
    "compiled": "#8a6fb0",
    "torch_sparse": "#e0a030",
    "sdpa": "#e0a030",
    "faiss_top_1": "#e0a030",
    "gather": "#3d5a80",
    "pyg": "#b56576",
    "dense": "#b56576",
    "keops": "#b56576",
}
OTHER = "#999999"


def colour(rival: str, known: dict[str, str]) -> str:
    return known.setdefault(rival, COLOURS.get(rival, OTHER))


def speedups(groups: list[Group], title: str, path: Path) -> None:
    """One bar a rival and race; the line at 1 is our kernel."""
    from matplotlib.figure import Figure

    known: dict[str, str] = {}
    rows = [(g, r, ratio) for g in groups for r, ratio in g.ratios().items() if r not in CEILINGS]
    figure = Figure(figsize=(8, 1.2 + 0.24 * (len(rows) + len(groups))), layout="constrained")
    axes = figure.subplots()
    y, ticks, labels = 0.0, [], []
    for group in groups:
        mine = [(r, ratio) for g, r, ratio in rows if g is group]
        ticks.append(y + (len(mine) - 1) / 2)
        labels.append(f"{group.what}\n{group.shape}")
        for rival, (ratio, low, high) in mine:
            spread = [[max(0.0, ratio - low)], [max(0.0, high - ratio)]]
            axes.barh(y, ratio, color=colour(rival, known), xerr=spread, error_kw={"lw": 0.8, "ecolor": "#555"})
            axes.annotate(f" {ratio:.1f}", (max(high, ratio), y), va="center", fontsize=7)
            y += 1
        y += 0.8
    axes.axvline(1, color="black", lw=1)
    axes.set_yticks(ticks, labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    plain_ticks(axes)
    axes.set_xlabel("time of the rival / time of vlmadapt (right of the line: vlmadapt is faster)")
    axes.set_title(title)
    handles = [axes.barh([0], [0], color=c, label=r) for r, c in known.items()]
    figure.legend(handles=handles, fontsize=7, loc="outside lower center", ncols=len(handles))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def plain_ticks(axes: Any) -> None:
    """1, 2, 3, 10 in place of powers; between powers of ten only where there is room."""
    from matplotlib.ticker import NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())


def curves(group: Group, path: Path) -> None:
    """Time (and memory, where recorded) against x; dotted: the slopes that theory says, ours at the largest x."""
    from matplotlib.figure import Figure

    series: dict[str, list[tuple[float, float, float | None]]] = defaultdict(list)
    extra: dict[str, Any] = {}
    for entry in group.entries.values():
        extra = entry.extra
        series[extra["rival"]].append((extra["x"], 1000 * entry.median, extra.get("mib")))
    slopes = [extra.get("slope"), extra.get("memory_slope")]
    with_memory = any(m is not None for points in series.values() for _, _, m in points)
    figure = Figure(figsize=(10 if with_memory else 5.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2 if with_memory else 1, squeeze=False)[0]
    known: dict[str, str] = {}
    for rival, points in series.items():
        points.sort()
        x = [p[0] for p in points]
        columns: list[list[Any]] = [[p[1] for p in points], [p[2] for p in points]]
        for axes, values, slope in zip(panels, columns, slopes, strict=False):
            axes.plot(x, values, "o-", color=colour(rival, known), label=rival, ms=4)
            if rival == "ours" and slope is not None and values[-1]:
                line = [values[-1] * (v / x[-1]) ** slope for v in x]
                axes.plot(x, line, ":", color="black", lw=1, label=f"slope {slope:g}")
    for axes, name in zip(panels, ("milliseconds", "extra memory, MiB"), strict=False):
        axes.set(xscale="log", yscale="log", xlabel=extra["x_name"], ylabel=name)
        axes.grid(alpha=0.3, which="both", lw=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"{group.operation}: {group.what}", fontsize=10)
    figure.savefig(path, dpi=130)
