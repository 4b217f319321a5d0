"""Tables: drawn by rich on a terminal, aligned Markdown everywhere else."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlmadapt.reporting.results import ProtocolResults, Summary

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """Cells are text; the first column is aligned left, the others right unless ``left`` names them.

    ``bold`` holds (row, column) of the cells to stress on a terminal.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: frozenset[int] = frozenset({0})
    bold: frozenset[tuple[int, int]] = field(default_factory=frozenset)


def protocol_table(results: ProtocolResults) -> Table:
    """Test accuracy in per cent, mean ± sample deviation over the seeds, one row a method."""
    shots = results.shots
    lines = {method: [results.of(method, count) for count in shots] for method in results.methods}
    rows = []
    for method, line in lines.items():
        largest = line[-1]
        cost = [f"{largest.trainable_parameters:,}", f"{largest.fit_seconds:.1f}", f"{largest.peak_memory_mib:,.0f}"]
        rows.append([method, *(percent(summary) for summary in line), *cost])
    bold = {(row, column + 1) for column in range(len(shots)) for row in _best_rows(list(lines.values()), column)}
    seeds = results.protocol["seeds"]
    over = f"mean ± sample deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]} only"
    most = f"{shots[-1]} shots"
    return Table(
        title=f"{results.dataset['name']} ({results.dataset['classes']} classes, {results.dataset['test']} test "
        f"pictures), encoder {results.encoder['name']}: test accuracy in %",
        header=["method", *(f"{count} shot{'s' * (count > 1)}" for count in shots), "trained", "fit s", "peak MiB"],
        rows=rows,
        notes=[
            f"Accuracy: {over}; hyper-parameters and epochs chosen on validation pictures only, test read once.",
            f"trained: parameters at {most}; fit s: mean seconds of one fit at {most}; peak MiB: process peak of it.",
        ],
        bold=frozenset(bold),
    )


def _best_rows(lines: Sequence[Sequence[Summary]], column: int) -> list[int]:
    top = max(line[column].mean for line in lines)
    return [row for row, line in enumerate(lines) if line[column].mean == top]


def percent(summary: Summary) -> str:
    mean = f"{100 * summary.mean:.1f}"
    return mean if summary.std is None else f"{mean} ± {100 * summary.std:.1f}"


def to_markdown(table: Table) -> str:
    """The table as Markdown whose columns also line up when read as plain text."""
    cells = [[_escape(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *(_width(row[i]) for row in cells)) for i in range(len(table.header))]
    header, *rows = ["| " + " | ".join(_pad(*cell) for cell in zip(row, widths, _lefts(table), strict=True)) + " |"
                     for row in cells]
    rule = "|" + "|".join(
        f":{'-' * width}-" if left else f"-{'-' * width}:" for width, left in zip(widths, _lefts(table), strict=True)
    ) + "|"
    return "\n".join([table.title, "", header, rule, *rows, *([""] if table.notes else []), *table.notes])


def show(table: Table, console: Console) -> None:
    """Print ``table``: boxes and colours on a terminal, Markdown when the output is piped."""
    if not console.is_terminal:
        print(to_markdown(table), file=console.file)
        return
    from rich.markup import escape
    from rich.table import Table as RichTable

    drawn = RichTable(title=escape(table.title), title_justify="left", caption_justify="left",
                      caption=escape("\n".join(table.notes)) or None)
    for name, left in zip(table.header, _lefts(table), strict=True):
        drawn.add_column(escape(name), justify="left" if left else "right", no_wrap=not left)
    for i, row in enumerate(table.rows):
        drawn.add_row(*(f"[bold]{escape(c)}[/bold]" if (i, j) in table.bold else escape(c) for j, c in enumerate(row)))
    console.print(drawn)


def _lefts(table: Table) -> list[bool]:
    return [i in table.left for i in range(len(table.header))]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _width(text: str) -> int:
    """Columns ``text`` takes on a screen: East Asian wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _pad(text: str, width: int, left: bool) -> str:
    space = " " * (width - _width(text))
    return text + space if left else space + text
