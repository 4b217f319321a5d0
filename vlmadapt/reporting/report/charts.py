"""Charts as the page's script draws them (Plotly's figures in plain JSON), each with its text and its table.

Colours are names of the style sheet (``@s1``, ``@s1/0.2`` with an opacity): they change with the page's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmadapt.reporting.report.html import drawn, folded, table_html, text
from vlmadapt.reporting.table import Table

Figure = dict[str, Any]
SERIES = 7  # colours in the style sheet
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
LONGEST = 30  # characters of a name in a chart; the tables have all
ROW = 21  # pixels
INK, MUTED, GREY = "@ink", "@muted", "@line"


@dataclass(frozen=True)
class Chart:
    """``figures`` by what a menu named ``menu`` calls them: of one there is no menu.

    alt: what is to be seen, for those who do not see it. table: the same in numbers. width: pixels below which the
    chart is not squeezed but moved sideways.
    """

    name: str
    alt: str
    figures: Mapping[str, Figure]
    table: Table
    caption: str = ""
    menu: str = ""
    width: int = 0

    def html(self) -> str:
        """The chart's place in the page, its menu and its table."""
        controls = ""
        if len(self.figures) > 1:
            options = "".join(f"<option>{text(each)}</option>" for each in self.figures)
            menu = f'<select id="{text(self.name)}-menu">{options}</select>'
            controls = f'<div class="controls"><label>{text(self.menu)}{menu}</label></div>'
        style = f' style="min-width:{self.width}px"' if self.width else ""
        focus = ' tabindex="0"' if self.width else ""
        return (
            f'{controls}<figure><div class="across"{focus}><div class="plot" role="img" '
            f'data-figure="{text(self.name)}" aria-label="{text(self.alt)}"{style}></div></div>'
            f"<figcaption>{text(self.caption)}</figcaption></figure>"
            + folded("The numbers as a table", table_html(self.table))
        )


def number(value: float | None, digits: int = 4) -> float | None:
    """For JSON: rounded, None where there is no number."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def numbers(values: Iterable[float | None], digits: int = 4) -> list[float | None]:
    return [number(value, digits) for value in values]


def colour(place: int) -> str:
    return f"@s{place % SERIES}"


def symbol(place: int) -> str:
    """Past the colours these tell series apart."""
    return SYMBOLS[(place + place // SERIES) % len(SYMBOLS)]


def names_axis(names: Sequence[str], longest: int = LONGEST, **more: Any) -> dict[str, Any]:
    """An axis of names cut to ``longest`` characters, at whole numbers: names alike, or numbers, stay apart."""
    ticks = {"tickmode": "array", "tickvals": list(range(len(names)))}
    texts = [drawn(name, longest) for name in names]
    return {**ticks, "ticktext": texts, "showgrid": False, "zeroline": False, **more}


def bars(
    names: Sequence[str],
    values: Sequence[float],
    hover: Sequence[str],
    title: str,
    around: Sequence[tuple[float, float]] | None = None,
    tone: str = "@s1/0.55",
    most: float | None = None,
    longest: int = LONGEST,
) -> Figure:
    """Bars beside ``names``, the first on top; ``around`` holds the ends of their error bars."""
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "x": numbers(values),
        "y": list(range(len(names))),
        "hovertext": [drawn(line) for line in hover],
        "hoverinfo": "text",
        "marker": {"color": tone},
        "showlegend": False,
    }
    if around is not None:
        trace["error_x"] = _errors(values, around)
    xaxis = {"title": {"text": title}, "rangemode": "tozero", "side": "top"} | ({"range": [0, most]} if most else {})
    yaxis = names_axis(names, longest, range=[len(names) - 0.4, -0.6], fixedrange=True)
    return {
        "data": [trace],
        "layout": {
            "height": 70 + ROW * max(len(names), 3),
            "bargap": 0.35,
            "xaxis": xaxis,
            "yaxis": yaxis,
            "margin": {"t": 50, "b": 10},
        },
    }


def _errors(values: Sequence[float], around: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": numbers([max(0.0, high - value) for value, (_, high) in zip(values, around, strict=True)]),
        "arrayminus": numbers([max(0.0, value - low) for value, (low, _) in zip(values, around, strict=True)]),
        "color": INK,
        "thickness": 1.2,
        "width": 3,
    }


def dots(
    names: Sequence[str], values: Sequence[float], hover: Sequence[str], title: str, around: Sequence[Any] | None
) -> Figure:
    """Points beside ``names``, the first on top, with error bars; a line where nothing differs."""
    figure = bars(names, values, hover, title, around)
    trace = figure["data"][0]
    trace |= {"type": "scatter", "mode": "markers", "marker": {"color": "@s1", "size": 9}}
    del trace["orientation"]
    figure["layout"]["xaxis"] = {"title": {"text": title}, "side": "top", "zeroline": True, "zerolinewidth": 2}
    return figure


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    scale: Sequence[tuple[float, str]],
    limits: tuple[float, float],
    said: Sequence[Sequence[str]],
    between: str = ", ",
    written: Sequence[Sequence[str]] | None = None,
    legend: str = "",
) -> Figure:
    """A matrix, the first row on top. ``said``: what the page's script shows of each cell, after the names of row and
    column with ``between`` between them; nothing where it is empty. ``written``: what is written in each."""
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": [numbers(row, 3) for row in values],
        "meta": {"said": [list(map(drawn, row)) for row in said], "between": drawn(between)},
        "hoverinfo": "text",
        "colorscale": [list(stop) for stop in scale],
        "zmin": limits[0],
        "zmax": limits[1],
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": legend, "side": "right"}, "thickness": 12, "len": 0.9, "outlinewidth": 0},
        "showlegend": False,
    }
    side = ROW if len(rows) <= 40 else 16
    annotations = []
    if written is not None:
        middle = (limits[0] + limits[1]) / 2
        annotations = [
            {
                "x": column,
                "y": row,
                "text": drawn(written[row][column]),
                "showarrow": False,
                "font": {"size": 10, "color": "@paper" if (values[row][column] or 0) > middle else INK},
            }
            for row in range(len(rows))
            for column in range(len(columns))
            if written[row][column]
        ]
    return {
        "data": [trace],
        "layout": {
            "height": 150 + side * max(len(rows), 3),
            "xaxis": names_axis(columns, tickangle=-90, tickfont={"size": 11}),
            "yaxis": names_axis(rows, range=[len(rows) - 0.5, -0.5], tickfont={"size": 11}),
            "annotations": annotations,
            "margin": {"l": 40, "r": 10, "t": 10, "b": 60},
        },
    }


def width_of(columns: int) -> int:
    """Pixels that a heat map of so many columns needs."""
    return 200 + 15 * columns
