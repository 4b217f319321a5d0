"""Tables: drawn by rich on a terminal, aligned Markdown everywhere else."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmadapt.adapters import ADAPTERS
from vlmadapt.experiments import paired
from vlmadapt.experiments.measures import FILES_ONLY, MAIN, TITLES
from vlmadapt.experiments.paired import Gain
from vlmadapt.experiments.protocols import PROTOCOLS
from vlmadapt.experiments.results import ProtocolResults, Summary
from vlmadapt.provenance import intervals
from vlmadapt.provenance.means import best_places, over_seeds, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

ONE_DRAW = "same"


@dataclass(frozen=True)
class Table:
    """Cells are text; the first column is aligned left, the others right unless ``left`` names them.

    ``bold`` holds (row, column) of the cells to stress on a terminal; one too narrow for the whole of a ``divisible``
    table gets several, each with the first column and as many others as it has room for.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: frozenset[int] = frozenset({0})
    bold: frozenset[tuple[int, int]] = frozenset()
    divisible: bool = False


def protocol_table(results: ProtocolResults) -> Table:
    """Test accuracy in per cent, mean ± sample deviation over the seeds and interval, one row a method; other measures
    at the most shots."""
    shots = results.shots
    lines = {method: [results.of(method, count) for count in shots] for method in results.methods}
    more = [name for name in results.measures if name not in (MAIN, *FILES_ONLY)]
    rows = []
    for method, line in lines.items():
        largest = line[-1]
        cost = [f"{largest.trainable_parameters:,}", f"{largest.fit_seconds:.1f}", f"{largest.peak_memory_mib:,.0f}"]
        others = [results.of(method, shots[-1], name) for name in more]
        rows.append([method, *map(figure, (*line, *others)), *cost])
    most = f"{shots[-1]} shots"
    columns = [
        *(f"{count} shot{'s' * (count > 1)}" for count in shots),
        *(f"{TITLES.get(name, name)}, {most}" for name in more),
    ]
    return Table(
        title=f"{results.dataset['name']} ({results.dataset['classes']} classes, {results.dataset['test']} test "
        f"pictures), encoder {results.encoder['name']}: test accuracy in %",
        header=["method", *columns, "trained", "fit s", "peak MiB"],
        rows=rows,
        notes=[
            *protocol_notes(results),
            interval_note(results.pictures()),
            *validation_notes(results),
            *draw_notes(results),
            f"trained: parameters at {most}; fit s: mean seconds of one fit at {most}; peak MiB: process peak of it.",
        ],
        bold=best_places([summary.mean for summary in column] for column in zip(*lines.values(), strict=True)),
        divisible=True,
    )


def validation_notes(results: ProtocolResults) -> list[str]:
    """Which methods had more pictures to train on than the others."""
    if not PROTOCOLS[results.protocol_name].holds_out:
        return []
    adapters = {cell.method: cell.adapter for cell in results.cells}
    trained = [method for method, name in adapters.items() if name in ADAPTERS and ADAPTERS[name].trains_on_validation]
    return [f"Fitted on the validation pictures too: {', '.join(trained)}."] if trained else []


def figure(summary: Summary) -> str:
    """A measure in a table: mean, deviation over the seeds or that they saw the same, and interval."""
    spread = f"{percent(summary.mean, None)} {ONE_DRAW}" if summary.one_draw else percent(summary.mean, summary.std)
    return spread if summary.interval is None else f"{spread} {summary.interval}"


def protocol_notes(results: ProtocolResults) -> list[str]:
    """What figures are taken over, and what chose and was tested."""
    protocol = PROTOCOLS[results.protocol_name]()
    return [
        f"Accuracy: {over_seeds(results.protocol['seeds'])}; protocol {protocol.name}: {protocol.note}.",
        *(f"{remark}." for remark in protocol.remarks(results.shots)),
    ]


def interval_note(pictures: int) -> str:
    return f"[low, high]: of the test set, {pictures:,} pictures ({intervals.NAME})."


def draw_notes(results: ProtocolResults) -> list[str]:
    """What is to be said of seeds that drew the same pictures, all or some of them."""
    whole = [f"{ONE_DRAW}: all seeds saw the same pictures, or the method saw none: no deviation of the draw."]
    some = [line for count, groups in results.same_draws.items() for line in _same_draw(results, count, groups)]
    return (whole if any(summary.one_draw for summary in results.summary()) else []) + some + _same_training(results)


def _same_training(results: ProtocolResults) -> list[str]:
    """Where all seeds trained on the same pictures, and others chose."""
    found = []
    for count in results.shots:
        draws = {(cell.train_hash, cell.split_hash) for cell in results.cells if cell.shots == count}
        if len(draws) > 1 and len({train for train, _ in draws}) == 1 and None not in {train for train, _ in draws}:
            found.append(f"{count} shot{'s' * (count > 1)}")
    if not found:
        return []
    return [
        f"{', '.join(found)}: all seeds trained on the same pictures, the deviation is that of the pictures that chose."
    ]


def _same_draw(results: ProtocolResults, shots: int, groups: Sequence[Sequence[int]]) -> list[str]:
    if [sorted(results.protocol["seeds"])] == [list(group) for group in groups]:
        return []  # the table says so
    seeds = "; ".join(", ".join(map(str, group)) for group in groups)
    return [
        f"{shots} shot{'s' * (shots > 1)}: seeds {seeds} drew the same pictures, so that the deviation there does not "
        "tell of the draw."
    ]


def gains_table(results: ProtocolResults) -> Table | None:
    """Differences of accuracy to the reference in points, with their intervals; None where there is no other method."""
    found, reference = {(gain.method, gain.shots): gain for gain in results.gains()}, results.reference
    if not found:
        return None
    rows = []
    for method in dict.fromkeys(gain.method for gain in found.values()):
        row = [found.get((method, shots)) for shots in results.shots]
        rows.append([method, *("-" if gain is None else _points(gain) for gain in row)])
    return Table(
        title=f"Points of accuracy over {reference} on the same pictures and seeds",
        header=[f"over {reference}", *(f"{shots} shot{'s' * (shots > 1)}" for shots in results.shots)],
        rows=rows,
        notes=[f"[low, high]: paired {paired.NAME}."] if any(gain.interval for gain in found.values()) else [],
        divisible=True,
    )


def _points(gain: Gain) -> str:
    mean = f"{100 * gain.mean:+.1f}"
    if gain.interval is None:
        return mean
    return f"{mean} [{100 * gain.interval.low:+.1f}, {100 * gain.interval.high:+.1f}]"


def to_markdown(table: Table) -> str:
    """The table as Markdown whose columns also line up when read as plain text."""
    widths, lefts = _widths(table), _lefts(table)

    def line(row: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(_pad(_escape(cell), width, left) for cell, width, left in zip(row, widths, lefts, strict=True))
            + " |"
        )

    rules = [f":{'-' * width}-" if left else f"-{'-' * width}:" for width, left in zip(widths, lefts, strict=True)]
    rule = "|" + "|".join(rules) + "|"
    notes = ["", *table.notes] if table.notes else []
    title = [table.title, ""] if table.title else []
    return "\n".join([*title, line(table.header), rule, *(line(row) for row in table.rows), *notes])


def show(table: Table, console: Console) -> None:
    """Print ``table``: boxes and colours on a terminal, Markdown when the output is piped."""
    if not console.is_terminal:
        print(to_markdown(table), file=console.file)
        return
    parts = _parts(table, console.width)
    if any(_least_width(table, part) > console.width for part in parts):
        print(to_markdown(table), file=console.file)  # lines that the terminal breaks, but whole figures
        return
    drawn = [_drawn(table, part) for part in parts]
    if table.title:
        console.print(table.title, style="bold", markup=False, highlight=False)
    for part in drawn:
        console.print(part)
    for note in table.notes:
        console.print(note, style="dim", markup=False, highlight=False)


def _parts(table: Table, width: int) -> list[list[int]]:
    """Columns of each table that is drawn in place of one too wide for the screen."""
    widths, columns = [each + 3 for each in _widths(table)], list(range(len(table.header)))
    if not table.divisible or sum(widths) <= width:
        return [columns]
    parts = [[0]]
    for column in columns[1:]:
        if len(parts[-1]) > 1 and sum(widths[each] for each in (*parts[-1], column)) > width:
            parts.append([0])
        parts[-1].append(column)
    return parts


def _least_width(table: Table, columns: Sequence[int]) -> int:
    """Columns of the screen below which figures would be cut; those aligned left are broken at any width."""
    return sum(1 if column in table.left else _widths(table)[column] for column in columns) + 3 * len(columns)


def _drawn(table: Table, columns: Sequence[int]) -> RichTable:
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        left = _lefts(table)[column]
        drawn.add_column(
            escape(table.header[column]), justify="left" if left else "right", overflow="fold", no_wrap=not left
        )
    for i, row in enumerate(table.rows):
        cells = {column: escape(row[column]) for column in columns}
        drawn.add_row(*(f"[bold]{cell}[/bold]" if (i, j) in table.bold else cell for j, cell in cells.items()))
    return drawn


def _lefts(table: Table) -> list[bool]:
    return [i in table.left for i in range(len(table.header))]


def _widths(table: Table) -> list[int]:
    return [
        max(3, *(_width(_escape(cell)) for cell in column)) for column in zip(table.header, *table.rows, strict=True)
    ]


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
