"""Accuracy against shots with bands, one figure a test set."""

from __future__ import annotations

from vlmadapt.experiments.results import ProtocolResults, Summary
from vlmadapt.provenance.intervals import NAME
from vlmadapt.reporting.curves import REFERENCE
from vlmadapt.reporting.report.charts import MUTED, Chart, Figure, colour, number, numbers, symbol
from vlmadapt.reporting.report.html import drawn
from vlmadapt.reporting.report.page import Section
from vlmadapt.reporting.table import figure, protocol_table
from vlmadapt.reporting.transfer import transfer_table


def curves_section(results: ProtocolResults) -> Section:
    """Accuracy of every method over the shots; the table has all measures."""
    several = results.test_sets != (None,)
    table = transfer_table(results) if several else protocol_table(results)
    seeds = len(results.protocol["seeds"])
    band = "one sample deviation over the seeds" if seeds > 1 else f"interval of the test pictures, {NAME}"
    most = results.shots[-1]
    best = max(results.methods, key=lambda method: results.of(method, most).mean)
    chart = Chart(
        "curves",
        f"Lines of test accuracy over the number of training pictures a class, one a method. At {most} the highest is "
        f"{best} with {100 * results.of(best, most).mean:.1f} per cent.",
        {str(place or ""): _figure(results, place) for place in results.test_sets},
        table,
        f"Bands: {band}. Click a name to hide its line, twice to see it alone.",
        "tested on",
    )
    return Section("Accuracy", "Accuracy by training pictures", "", [chart])


def _figure(results: ProtocolResults, place: str | None) -> Figure:
    shots = results.shots
    lines = {method: [results.of(method, count, tested_on=place) for count in shots] for method in results.methods}
    order = list(lines)  # colours stay with the method, whatever its rank
    data = []
    for method in sorted(lines, key=lambda method: -lines[method][-1].mean):
        data += _line(method, lines[method], order.index(method))
    xaxis = {"type": "log", "tickmode": "array", "tickvals": list(shots), "ticktext": [str(count) for count in shots]}
    return {
        "data": data,
        "layout": {
            "height": 460,
            "xaxis": {**xaxis, "title": {"text": "training pictures a class (shots)"}},
            "yaxis": {"title": {"text": "test accuracy, %"}},
            "hovermode": "closest",
        },
    }


def _line(method: str, line: list[Summary], place: int) -> list[Figure]:
    plain = method == REFERENCE
    tone = MUTED if plain else colour(place)
    x = [summary.shots for summary in line]
    ends = [_ends(summary) for summary in line]
    name = drawn(method)
    band = {
        "type": "scatter",
        "mode": "lines",
        "x": x + x[::-1],
        "y": numbers([low for low, _ in ends] + [high for _, high in ends[::-1]]),
        "fill": "toself",
        "fillcolor": f"{tone}/0.13",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "legendgroup": name,
        "showlegend": False,
    }
    drawn_line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "legendgroup": name,
        "x": x,
        "y": [number(100 * summary.mean) for summary in line],
        "line": {"color": tone, "width": 2, "dash": "dash" if plain else "solid" if place < 7 else "dot"},
        "marker": {"color": tone, "size": 8, "symbol": symbol(place)},
        "hovertext": [drawn(f"{method}, {summary.shots} shots: {figure(summary)} %") for summary in line],
        "hoverinfo": "text",
    }
    return [band, drawn_line] if len(line) > 1 else [drawn_line | {"error_y": _bars(line[0], ends[0], tone)}]


def _ends(summary: Summary) -> tuple[float, float]:
    """Of the band, in per cent: deviation over the seeds, of one seed the interval of the pictures."""
    mean = 100 * summary.mean
    if summary.std is not None:
        return mean - 100 * summary.std, mean + 100 * summary.std
    return (mean, mean) if summary.interval is None else (100 * summary.interval.low, 100 * summary.interval.high)


def _bars(summary: Summary, ends: tuple[float, float], tone: str) -> Figure:
    mean, (low, high) = 100 * summary.mean, ends
    return {"symmetric": False, "array": [number(high - mean)], "arrayminus": [number(mean - low)], "color": tone}
