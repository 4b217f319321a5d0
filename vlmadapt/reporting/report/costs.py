"""What accuracy costs: trained parameters and seconds of a fit against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.reporting.curves import REFERENCE
from vlmadapt.reporting.report.charts import MUTED, Chart, Figure, colour, number, symbol
from vlmadapt.reporting.report.html import drawn
from vlmadapt.reporting.report.page import Section
from vlmadapt.reporting.table import Table

PARAMETERS, SECONDS = "trained parameters", "seconds of a fit"
POWERS = {1: "none", 100: "100", 10_000: "10 k", 1_000_000: "1 M", 100_000_000: "100 M", 10_000_000_000: "10 G"}


class Cost(NamedTuple):
    """A method's main measure, times 100, and what it took."""

    method: str
    value: float
    parameters: int
    seconds: float
    memory_mib: float


def costs_section(results: ProtocolResults, shots: int) -> Section:
    """Of a comparison at ``shots``."""
    found = [results.of(method, shots) for method in results.methods]
    costs = [
        Cost(each.method, 100 * each.mean, each.trainable_parameters, each.fit_seconds, each.peak_memory_mib)
        for each in found
    ]
    return cost_section(costs, "test accuracy, %", f"At {shots} training pictures a class, mean of the seeds.")


def cost_section(costs: Sequence[Cost], measure: str, caption: str) -> Section:
    """A chart with a menu of what is asked, and its table."""
    asked: Mapping[str, Figure] = {
        PARAMETERS: _figure(costs, [max(each.parameters, 1) for each in costs], PARAMETERS, measure),
        SECONDS: _figure(costs, [max(each.seconds, 1e-4) for each in costs], SECONDS, measure),
    }
    rows = [
        [each.method, f"{each.value:.1f}", f"{each.parameters:,}", f"{each.seconds:.2f}", f"{each.memory_mib:,.0f}"]
        for each in sorted(costs, key=lambda each: -each.value)
    ]
    table = Table("cost and accuracy", ["method", measure, PARAMETERS, SECONDS, "peak MiB"], rows)
    best = max(costs, key=lambda each: each.value)
    alt = (
        f"Points of the methods by cost and {measure}. The highest, {best.method}, trains {best.parameters:,} "
        f"parameters in {best.seconds:.1f} seconds."
    )
    chart = Chart("costs", alt, asked, table, f"{caption} The axis of the cost is logarithmic.", "cost")
    return Section("Cost", "What it costs", "", [chart])


def _figure(costs: Sequence[Cost], places: Sequence[float], cost: str, measure: str) -> Figure:
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": drawn(each.method),
            "x": [number(x)],
            "y": [number(each.value)],
            "marker": {
                "size": 12,
                "color": MUTED if each.method == REFERENCE else colour(place),
                "symbol": symbol(place),
            },
            "hovertext": [
                drawn(
                    f"{each.method}: {each.value:.1f}, {each.parameters:,} parameters, {each.seconds:.2f} s, "
                    f"{each.memory_mib:,.0f} MiB at most"
                )
            ],
            "hoverinfo": "text",
        }
        for place, (each, x) in enumerate(zip(costs, places, strict=True))
    ]
    xaxis: Figure = {"type": "log", "title": {"text": cost}}
    if cost == PARAMETERS:
        xaxis |= {"tickmode": "array", "tickvals": list(POWERS), "ticktext": list(POWERS.values())}
    return {"data": data, "layout": {"height": 420, "xaxis": xaxis, "yaxis": {"title": {"text": measure}}}}
