"""CSV and JSONL files that list pictures: ``path``, ``label`` and optionally ``split``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmadapt.data.folder import SPLIT_NAMES
from vlmadapt.data.listing import require_files
from vlmadapt.data.splitting import carve_val, split_by_seed
from vlmadapt.data.templates import DEFAULT
from vlmadapt.data.types import SPLITS, Dataset, Sample
from vlmadapt.errors import FileError, InputError, naming_file


@dataclass(frozen=True)
class Row:
    line: int
    path: Path
    label: str
    split: str | None


def read_table(
    table: str | Path,
    seed: int = 0,
    name: str | None = None,
    templates: Sequence[str] = DEFAULT,
    check_files: bool = True,
) -> Dataset:
    """Read a ``.csv`` or ``.jsonl`` listing.

    Paths are relative to the listing. Labels are class names; where all of them are whole numbers they are sorted as
    numbers. Without a ``split`` column each class is split by ``seed`` (see
    :func:`vlmadapt.data.splitting.split_by_seed`); without validation rows a fifth of each training class becomes
    validation. Raises :class:`FileError` or :class:`InputError` naming the file and line.
    """
    table = Path(table)
    rows = list(_read_rows(table))
    if not rows:
        raise InputError(f"{table} lists no pictures: add rows with a path and a label.")
    _refuse_repeats(table, rows)
    labels = {row.label for row in rows}
    order = sorted(labels, key=int) if all(label.isdecimal() for label in labels) else sorted(labels)
    index = {label: position for position, label in enumerate(order)}

    parts: dict[str, tuple[Sample, ...]]
    if all(row.split is None for row in rows):
        parts = split_by_seed([Sample(row.path, index[row.label]) for row in rows], table.parent, seed)
    else:
        unset = next((row for row in rows if row.split is None), None)
        if unset is not None:
            raise InputError(f"{table} line {unset.line} has no split while others do: write train, val or test.")
        parts = {
            split: tuple(Sample(row.path, index[row.label]) for row in rows if row.split == split) for split in SPLITS
        }
        if not parts["test"]:
            raise InputError(f"{table} has no rows with split test: mark some, or leave the split column out.")
        if not parts["val"]:
            parts["train"], parts["val"] = carve_val(parts["train"], table.parent, seed)
    if check_files:
        require_files(table, [sample for part in parts.values() for sample in part])
    return Dataset(
        name=name or table.stem, class_names=tuple(order), templates=tuple(templates), root=table.parent, **parts
    )


def _read_rows(table: Path) -> Iterator[Row]:
    for line, record in _jsonl(table) if table.suffix.lower() == ".jsonl" else _csv(table):
        path, label, split = (record.get(key) for key in ("path", "label", "split"))
        if not isinstance(path, str) or not path.strip():
            raise InputError(f"{table} line {line} has no path: write the path of a picture relative to the file.")
        if isinstance(label, bool) or not isinstance(label, (str, int)) or not str(label).strip():
            raise InputError(f"{table} line {line} has label {label!r}: write a class name.")
        if split is not None and not isinstance(split, str):
            raise InputError(f"{table} line {line} has split {split!r}: write train, val or test.")
        wanted = (split or "").strip().lower()
        if wanted and wanted not in SPLIT_NAMES:
            raise InputError(f"{table} line {line} has split {split!r}: write train, val or test.")
        yield Row(line, table.parent / path.strip(), str(label).strip(), SPLIT_NAMES.get(wanted))


def _csv(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with naming_file(table, "read"), open(table, newline="", encoding="utf-8-sig") as stream:
        try:
            reader = csv.DictReader(stream)
            columns = [(column or "").strip().lower() for column in reader.fieldnames or []]
            if "path" not in columns or "label" not in columns:
                raise InputError(
                    f"{table} has columns {columns}: its first line must name path and label (and split, if wanted)."
                )
            reader.fieldnames = columns
            for record in reader:
                yield reader.line_num, record
        except UnicodeDecodeError as error:
            raise FileError(f"{table} is not UTF-8 text: save it as UTF-8.") from error
        except csv.Error as error:
            raise FileError(f"{table} is not valid CSV: {error}.") from error


def _jsonl(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with naming_file(table, "read"), open(table, encoding="utf-8-sig") as stream:
        try:
            for line, text in enumerate(stream, start=1):
                if not text.strip():
                    continue
                record = json.loads(text)
                if not isinstance(record, dict):
                    raise InputError(f'{table} line {line} is not a JSON object: write {{"path": ..., "label": ...}}.')
                yield line, record
        except UnicodeDecodeError as error:
            raise FileError(f"{table} is not UTF-8 text: save it as UTF-8.") from error
        except json.JSONDecodeError as error:
            raise FileError(f"{table} line {line} is not valid JSON: {error.msg}.") from error


def _refuse_repeats(table: Path, rows: list[Row]) -> None:
    first: dict[Path, Row] = {}
    for row in rows:
        other = first.setdefault(row.path, row)
        if other is not row:
            raise InputError(
                f"{table} lists {row.path} on lines {other.line} and {row.line}: a picture may have one label and one "
                "split only, remove one of the lines."
            )
