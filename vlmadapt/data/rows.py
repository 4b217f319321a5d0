"""Rows of CSV and JSONL files, as records by column."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmadapt.errors import FileError, InputError
from vlmadapt.files import parse_json, read_text

DELIMITERS = ",;\t|"


def plain(name: object) -> str:
    """The name of a column as it is compared: in lower case, composed, without blanks around it."""
    return unicodedata.normalize("NFC", str(name)).strip().lower()


def rows_of(
    table: Path, needed: tuple[str, str], others: Sequence[str] = (), fix: str = "please"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, record) of each row of a ``.jsonl`` file, or of a table whose first line names the columns; keys are as
    :func:`plain` gives them.

    ``needed`` columns must be there, and they and ``others`` once. ``fix`` ends the sentence about a missing one.
    Raises :class:`FileError` or :class:`InputError` naming the file and line.
    """
    return _jsonl(table, needed) if table.suffix.lower() == ".jsonl" else _csv(table, needed, others, fix)


def _csv(table: Path, needed: tuple[str, str], others: Sequence[str], fix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(table)
    try:
        columns, delimiter = _header(table, text, needed, others, fix)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        next(reader)
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) > len(columns) and any(field.strip() for field in fields[len(columns) :]):
                raise InputError(
                    f"{table} line {reader.line_num} has {len(fields)} fields, its first line {len(columns)}: put "
                    "text that holds the separator in double quotes."
                )
            yield reader.line_num, dict(zip(columns, fields, strict=False))
    except csv.Error as error:
        raise FileError(f"{table} is not valid CSV: {error}.") from error


def _header(table: Path, text: str, needed: tuple[str, str], others: Sequence[str], fix: str) -> tuple[list[str], str]:
    """The columns in lower case, and what separates them."""
    columns: list[str] = []
    for delimiter in DELIMITERS:
        first = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True), [])
        found = [plain(column) for column in first]
        if set(needed) <= set(found):
            repeated = next((column for column in (*needed, *others) if found.count(column) > 1), None)
            if repeated is not None:
                raise InputError(f"{table} names the column {repeated} twice in its first line: keep one of them.")
            return found, delimiter
        columns = max(columns, found, key=len)  # of the delimiter that it is, most probably
    missing = [name for name in needed if name not in columns] or needed
    raise InputError(
        f"{table} has columns {columns}, but none called {' and '.join(missing)}: name them so in its first "
        f"line, {fix}."
    )


def _jsonl(table: Path, needed: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(io.StringIO(read_text(table)), start=1):
        if not text.strip():
            continue
        record = parse_json(text, table, line)
        if not isinstance(record, dict):
            first, second = needed
            raise InputError(f'{table} line {line} is not a JSON object: write {{"{first}": ..., "{second}": ...}}.')
        # A key is read in any case, as a column is; of two that differ in case alone, the one that is written so.
        yield line, {**{plain(key): value for key, value in record.items()}, **record}
