"""The relations between classes of a fitted HeGraphAdapter: a matrix, which stays legible where a drawing does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.hegraph.adapter import HeGraphAdapter
from vlmadapt.adapters.hegraph.view import RelationMatrix, relation_matrices
from vlmadapt.reporting.graph_picture import LABELS
from vlmadapt.reporting.report.charts import Chart, Figure, heat_map, width_of
from vlmadapt.reporting.report.page import Section
from vlmadapt.reporting.table import Table

MOST = 60  # classes
NEAREST = 3
RISING = ((0.0, "@zero"), (1.0, "@s1"))
DIVERGING = ((0.0, "@s0"), (0.5, "@zero"), (1.0, "@s1"))


def relations_section(folder: str | Path) -> Section | None:
    """Of the adapter saved in ``folder``; None where it has no graph."""
    adapter = Adapter.load(folder)
    if not isinstance(adapter, HeGraphAdapter):
        return None
    matrices = relation_matrices(adapter, MOST)
    if not matrices:
        return None
    names = adapter.class_names
    shown, number = len(matrices[0].classes), len(names)
    of = f"all {number} classes" if shown == number else f"the {shown} of {number} classes with the strongest relations"
    chart = Chart(
        name="relations",
        alt=f"Matrix of the strength of the relations between classes, {of}. The table names the strongest of each.",
        figures={_title(one): _figure(one, names) for one in matrices},
        table=_table(matrices[0], names),
        caption=f"Signed cosine r of two classes' nodes, {of}, related ones side by side: from the node of the column "
        "to that of the row. Colours span what there is. What a class has with itself is left blank. Relations that "
        "validation switched off are not listed.",
        menu="relation",
        width=width_of(shown),
    )
    return Section("Relations", "Relations between classes in the graph", "", [chart])


def _title(one: RelationMatrix) -> str:
    return f"{LABELS[one.source]} to {LABELS[one.target]}"


def _figure(one: RelationMatrix, names: Sequence[str]) -> Figure:
    listed = [names[label] for label in one.classes]
    between = one.weights[~torch.eye(len(listed), dtype=torch.bool)]
    low, high = float(between.min()), float(between.max())
    largest = max(abs(low), abs(high))
    limits, scale = ((low, high), RISING) if low >= 0 else ((-largest, largest), DIVERGING)
    values = one.weights.tolist()
    return heat_map(
        listed,
        listed,
        [[None if i == j else value for j, value in enumerate(row)] for i, row in enumerate(values)],
        scale,
        limits,
        [["" if i == j else f"{value:+.3f}" for j, value in enumerate(row)] for i, row in enumerate(values)],
        " from ",
        legend="r",
    )


def _table(one: RelationMatrix, names: Sequence[str]) -> Table:
    rows = []
    for place, label in enumerate(one.classes):
        strengths = one.weights[place].abs()
        strengths[place] = -1
        order = strengths.argsort(descending=True, stable=True)[: min(NEAREST, len(one.classes) - 1)].tolist()
        near = [f"{names[one.classes[j]]} {float(one.weights[place, j]):+.3f}" for j in order]
        rows.append([names[label], *near, *[""] * (NEAREST - len(near))])
    header = ["class", *(f"{ordinal} related" for ordinal in ("most", "second", "third"))]
    return Table(f"{_title(one)}: the classes most related to each", header, rows, left=frozenset(range(NEAREST + 1)))
