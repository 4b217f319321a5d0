"""Descriptions of classes, which are their prompts in place of the templates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from vlmadapt.data.names import class_name_of
from vlmadapt.data.rows import rows_of
from vlmadapt.data.types import Dataset
from vlmadapt.errors import FileError, InputError, shown
from vlmadapt.files import read_json

CLASS, DESCRIPTION = "class", "description"
FIX = "one row a description"
SHOWN = 3


def read_descriptions(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Descriptions by class name: of a ``.json`` object of texts or lists of texts, or of a ``.csv``, ``.tsv`` or
    ``.jsonl`` file of ``class`` and ``description``, in which a class may have several rows.

    Raises :class:`FileError` or :class:`InputError` naming the file and what is wrong in it.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".json":
        pairs = list(_of_object(path))
    elif suffix in (".csv", ".tsv", ".jsonl"):
        pairs = [
            (f"line {line}", record.get(CLASS), record.get(DESCRIPTION))
            for line, record in rows_of(path, (CLASS, DESCRIPTION), fix=FIX)
        ]
    else:
        raise InputError(f"descriptions is {shown(path)}: give a .json, .csv, .tsv or .jsonl file.")
    found: dict[str, list[str]] = {}
    for where, name, text in pairs:
        if not isinstance(name, (str, int)) or not class_name_of(str(name)):
            raise InputError(f"{shown(path)} has class {name!r} at {where}: write the name of a class.")
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{shown(path)} has description {text!r} at {where}: write a text that describes the class."
            )
        found.setdefault(class_name_of(str(name)), []).append(" ".join(text.split()))
    if not found:
        raise InputError(f"{shown(path)} holds no descriptions: write a class and a text that describes it.")
    return {name: tuple(dict.fromkeys(texts)) for name, texts in found.items()}


def _of_object(path: Path) -> Iterator[tuple[str, object, object]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise FileError(f'{shown(path)} holds no JSON object: write {{"class": ["a description", ...], ...}}.')
    for name, texts in content.items():
        for text in texts if isinstance(texts, list) else [texts]:
            yield repr(name), name, text


def described(dataset: Dataset, path: str | Path, needed: bool = True) -> Dataset:
    """``dataset`` with the descriptions of ``path``; its notes say which classes have none, and which are none of its.

    Raises what :func:`read_descriptions` raises, and where ``needed`` :class:`InputError` when no class has one.
    """
    found = read_descriptions(path)
    names = {class_name_of(name): name for name in dataset.class_names}
    own = {names[name]: texts for name, texts in found.items() if name in names}
    if not own and needed:
        raise InputError(
            f"{shown(Path(path))} describes {_some(list(found))}, but no class of {dataset.name!r} "
            f"({_some(dataset.class_names)}): name the classes as the data do."
        )
    without = [name for name in dataset.class_names if name not in own]
    others = [name for name in found if name not in names]
    notes = []
    if without:
        notes.append(f"no description, but the templates, for {_some(without)}")
    if others:
        notes.append(f"descriptions left out, of classes that the data do not have: {_some(others)}")
    return replace(dataset, descriptions=own, notes=(*dataset.notes, *notes))


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def digest_of(descriptions: Mapping[str, tuple[str, ...]]) -> str | None:
    """sha256 (hex) of all descriptions, by which runs are told apart; None without any."""
    if not descriptions:
        return None
    return hashlib.sha256(json.dumps(sorted(descriptions.items())).encode()).hexdigest()
