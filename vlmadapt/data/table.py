"""CSV and JSONL files that list pictures: ``path``, ``label`` and optionally ``split``, or columns of other names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vlmadapt.data.listing import picture_path, require_files
from vlmadapt.data.names import class_name_of, named, resolve_eval, split_named
from vlmadapt.data.rows import plain, rows_of
from vlmadapt.data.splitting import carve_val, split_by_seed
from vlmadapt.data.templates import DEFAULT
from vlmadapt.data.types import SPLITS, Dataset, Parts, Sample
from vlmadapt.errors import InputError
from vlmadapt.kinds import of_kinds

FIX = "or say which they are (--path-column, --label-column)"
WRITE_SPLIT = "write train, val or test"


class Columns(NamedTuple):
    """The columns of a listing that are read, in any case; ``split`` need not be there."""

    path: str = "path"
    label: str = "label"
    split: str = "split"

    def plain(self) -> Columns:
        """As they are compared. Raises :class:`InputError` for a name that is empty or given twice."""
        found = Columns(*(plain(name) for name in self))
        for option, name in zip(self._fields, found, strict=True):
            if not name or found.count(name) > 1:
                value = getattr(self, option)
                raise InputError(
                    f"{option}_column is {value!r}: name a column that no other one is (--{option}-column)."
                )
        return found


NAMED = Columns()


@dataclass(frozen=True)
class Row:
    line: int
    path: Path
    label: str
    split: str | None


@of_kinds
def read_table(
    table: str | Path,
    seed: int = 0,
    name: str | None = None,
    templates: Sequence[str] = DEFAULT,
    check_files: bool = True,
    also: Sequence[str] = (),
    columns: Columns = NAMED,
) -> Dataset:
    """Read a ``.csv``, ``.tsv`` or ``.jsonl`` listing, in any encoding that :func:`vlmadapt.files.read_text` reads.

    Columns may be separated by commas, semicolons, tabs or bars. Paths are relative to the listing. Labels are class
    names, read as those of folders are; where all of them are whole numbers they are sorted as numbers. Without a
    ``split`` column each class is split by ``seed`` (see :func:`vlmadapt.data.splitting.split_by_seed`); without
    validation rows a fifth of each training class becomes validation. ``also`` names classes that may have no row.
    ``columns`` says what those of path, label and split are called.
    Raises :class:`FileError` or :class:`InputError` naming the file and line.
    """
    table = Path(table)
    rows = list(_read_rows(table, columns.plain()))
    if not rows:
        raise InputError(f"{table} lists no pictures: add rows with a path and a label.")
    _refuse_repeats(table, rows)
    _refuse_two_spellings(table, rows)
    class_names = named((class_name_of(row.label) for row in rows), also)
    index = {class_name: label for label, class_name in enumerate(class_names)}

    parts: Parts
    seeded = all(row.split is None for row in rows)
    if seeded and columns.split != NAMED.split:
        raise InputError(f"{table} has no column {columns.split!r} with splits: leave it out (--split-column).")
    if seeded:
        parts = split_by_seed([_sample(row, index) for row in rows], table.parent, seed)
    else:
        unset = next((row for row in rows if row.split is None), None)
        if unset is not None:
            raise InputError(f"{table} line {unset.line} has no split while others do: {WRITE_SPLIT}.")
        parts = _by_split(table, rows, index)
        if not parts["val"]:
            parts["train"], parts["val"] = carve_val(parts["train"], table.parent, seed)
    if check_files:
        require_files(table, [sample for part in parts.values() for sample in part])
    return Dataset(
        name=name or table.stem,
        class_names=tuple(class_names),
        templates=tuple(templates),
        root=table.parent,
        seeded=seeded,
        **parts,
    )


def _sample(row: Row, index: dict[str, int]) -> Sample:
    return Sample(row.path, index[class_name_of(row.label)])


def _by_split(table: Path, rows: list[Row], index: dict[str, int]) -> Parts:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.split), []).append(row)
    groups = resolve_eval(groups)
    if "eval" in groups:
        raise InputError(f"{table} line {groups['eval'][0].line} has split eval beside val and test: {WRITE_SPLIT}.")
    if "test" not in groups and "val" not in groups:
        raise InputError(f"{table} has no rows with split test: mark some, or leave the split column out.")
    return {split: tuple(_sample(row, index) for row in groups.get(split, ())) for split in SPLITS}


def _read_rows(table: Path, columns: Columns) -> Iterator[Row]:
    for line, record in rows_of(table, (columns.path, columns.label), (columns.split,), FIX):
        path, label, split = (record.get(key) for key in columns)
        if not isinstance(path, str) or not path.strip():
            raise InputError(
                f"{table} line {line} has no {columns.path}: write the path of a picture relative to the file."
            )
        text = "" if isinstance(label, bool) or not isinstance(label, (str, int)) else str(label).strip()
        if not text or text.lower() == "nan":  # how programs write a missing value
            raise InputError(f"{table} line {line} has {columns.label} {label!r}: write a class name.")
        if split is not None and not isinstance(split, str):
            raise InputError(f"{table} line {line} has {columns.split} {split!r}: {WRITE_SPLIT}.")
        wanted = split_named(split) if split and split.strip() else None
        if split and split.strip() and wanted is None:
            raise InputError(f"{table} line {line} has {columns.split} {split!r}: {WRITE_SPLIT}.")
        yield Row(line, picture_path(table, table.parent, path.strip()), text, wanted)


def _refuse_repeats(table: Path, rows: list[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        # dog/../cat/1.png is cat/1.png.
        other = first.setdefault(unicodedata.normalize("NFC", os.path.normpath(row.path)), row)
        if other is not row:
            raise InputError(
                f"{table} lists {row.path} on lines {other.line} and {row.line}: a picture may have one label and one "
                "split only, remove one of the lines."
            )


def _refuse_two_spellings(table: Path, rows: list[Row]) -> None:
    """``road_sign`` and ``road sign`` are one class name, and would be two folders."""
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(class_name_of(row.label), row)
        if unicodedata.normalize("NFC", other.label) != unicodedata.normalize("NFC", row.label):
            raise InputError(
                f"{table} has labels {other.label!r} on line {other.line} and {row.label!r} on line {row.line}, which "
                "are one class name: write one of them."
            )
