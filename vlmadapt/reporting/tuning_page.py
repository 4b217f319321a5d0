"""What docs/tuning.md shows of the comparison of methods: tables between its comments, and pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vlmadapt.errors import FileError
from vlmadapt.files import read_text, write_text
from vlmadapt.generative.comparison import COURSES, SIZED, Course, place, rates_line
from vlmadapt.generative.data.records import Record, RecordSet
from vlmadapt.generative.results import TuningResults, merge_results
from vlmadapt.generative.tuning import predictions_of
from vlmadapt.reporting.said_picture import choose_records, describe_records, draw_said
from vlmadapt.reporting.table import to_markdown
from vlmadapt.reporting.tuning_directions import directions_table
from vlmadapt.reporting.tuning_table import kinds_table, sizes_table, tuning_table

SHOWN = 8  # records in a picture
SUBTITLE = "Test records, those on which the methods disagree first"


def fill_page(
    path: Path, name: str, runs: Path, records: RecordSet, course: Course, methods: Sequence[str], shown: Sequence[str]
) -> None:
    """Put the results of ``methods`` on ``records``, run one by one below ``runs``, into the places ``name`` of the
    page ``path``, and draw ``tuning_NAME.png`` of those ``shown`` beside it. Raises :class:`FileError` where the page
    has no place for them."""
    merged = merge_results([TuningResults.load(place(runs, method)) for method in methods])
    merged.save(runs)
    filled = {name: to_markdown(tuning_table(merged)), f"{name}-rates": rates_line(runs, methods)}
    if merged.cells[0].by_kind:
        filled[f"{name}-kinds"] = kinds_table(merged)
    page = read_text(path)
    for where, text in filled.items():
        page = replaced(page, where, text, path)
    predictions = {method: predictions_of(place(runs, method), method, 0) for method in shown}
    chosen = choose_records(records.limited(*course.limits).test, predictions, SHOWN)
    title = f"{records.name}, {records.task}: what each method says (seed 0)"
    draw_said(describe_records(chosen, predictions), title, SUBTITLE, path.with_name(f"tuning_{name}.png"))
    write_text(path, page)


def fill_sizes_and_directions(path: Path, folder: Path, sets: Sequence[RecordSet]) -> None:
    """Put what :func:`sizes_table` and :func:`directions_table` make of the runs below ``folder`` into the page."""
    tested: dict[str, Sequence[Record]] = {
        records.task: records.limited(*COURSES[records.task].limits).test for records in sets
    }
    page = replaced(read_text(path), "sizes", to_markdown(sizes_table(folder / SIZED)), path)
    write_text(path, replaced(page, "directions", to_markdown(directions_table(folder, tested)), path))


def replaced(page: str, name: str, text: str, path: Path) -> str:
    """``page`` with ``text`` between the comments ``<!-- name -->`` and ``<!-- end -->``.

    Raises :class:`FileError` naming ``path`` where it has none.
    """
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, page, re.DOTALL):
        raise FileError(f"{path} has no place for {name}: add <!-- {name} --> and <!-- end -->.")
    return re.sub(pattern, lambda match: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)
