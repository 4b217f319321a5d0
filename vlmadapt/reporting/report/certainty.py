"""Accuracy against certainty: a figure a method, and the table of its bins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmadapt.experiments.results import Cell
from vlmadapt.provenance.intervals import NAME, wilson
from vlmadapt.reporting.report.charts import MUTED, Figure, numbers
from vlmadapt.reporting.table import Table

CAPTION = (
    f"Accuracy of the pictures that a method was so certain of, with {NAME} intervals; on the dotted line certainties "
    "can be taken at their word. Bars: the share of all pictures."
)


def certainty_figure(cells: Sequence[Cell]) -> tuple[Figure, list[list[str]]]:
    """The figure of fits that differ in the seed, and rows of a table: certainty, pictures, accuracy, interval."""
    bins = np.asarray([cell.reliability for cell in cells], dtype=float)  # [seeds, bins, 3]
    count, certainty, right = bins.sum(0).T
    some = np.flatnonzero(count)
    x, y = 100 * certainty[some] / count[some], 100 * right[some] / count[some]
    around = [wilson(hits / 100, max(round(n / len(bins)), 1)) for hits, n in zip(y, count[some], strict=True)]
    shares = 100 * count[some] / count.sum()
    width = 100 / len(count)
    low = [max(0.0, value - 100 * each.low) for value, each in zip(y, around, strict=True)]
    high = [max(0.0, 100 * each.high - value) for value, each in zip(y, around, strict=True)]
    rows = [
        [
            f"{width * place:.0f} to {width * (place + 1):.0f} %",
            f"{int(count[place]):,}",
            f"{of:.1f} %",
            f"{value:.1f} %",
            str(each),
        ]
        for place, of, value, each in zip(some, x, y, around, strict=True)
    ]
    hover = [f"certainty {row[2]}, accuracy {row[3]} {row[4]}, {row[1]} pictures" for row in rows]
    dotted = {"mode": "lines", "x": [0, 100], "y": [0, 100], "line": {"dash": "dot", "color": MUTED, "width": 1.5}}
    data = [
        {
            "type": "bar",
            "name": "share of pictures",
            "x": numbers((some + 0.5) * width),
            "y": numbers(shares),
            "width": 0.9 * width,
            "marker": {"color": "@line"},
            "hoverinfo": "skip",
        },
        {"type": "scatter", "name": "as sure as right", "hoverinfo": "skip", **dotted},
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "accuracy",
            "x": numbers(x),
            "y": numbers(y),
            "error_y": {
                **{"type": "data", "symmetric": False, "array": numbers(high), "arrayminus": numbers(low)},
                **{"color": "@s1", "thickness": 1.3, "width": 4},
            },
            "line": {"color": "@s1"},
            "marker": {"color": "@s1", "size": 7},
            "hovertext": hover,
            "hoverinfo": "text",
        },
    ]
    layout = {
        "height": 400,
        "xaxis": {"title": {"text": "certainty, %"}, "range": [0, 101]},
        "yaxis": {"title": {"text": "accuracy, %"}, "range": [0, 102]},
    }
    return {"data": data, "layout": layout}, rows


def certainty_table(rows: Sequence[Sequence[str]], several: bool) -> Table:
    """Of :func:`certainty_figure`, with the method in front where there are several."""
    header = [*(["method"] if several else []), "certainty", "pictures", "mean certainty", "accuracy", "interval"]
    return Table("accuracy by certainty", header, rows, left=frozenset(range(2 if several else 1)))
