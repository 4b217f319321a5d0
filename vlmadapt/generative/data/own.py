"""Records of one's own: a JSON-lines file of pictures with captions, questions and answers, or statements and labels.

    {"image": "photos/1.jpg", "caption": "two cats on a sofa"}
    {"image": "photos/1.jpg", "question": "how many cats are there?", "answers": ["2", "two"]}
    {"image": "photos/1.jpg", "hypothesis": "the sofa is empty", "label": "contradiction"}

Paths count from the file's folder. Without a ``split`` in each line, pictures are dealt by the hash of their bytes, so
that no picture, nor a copy of it under another name, lies in two splits, and what is added later moves few. Ours.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vlmadapt.data.listing import picture_path
from vlmadapt.data.names import is_utf8, split_named
from vlmadapt.data.rows import plain
from vlmadapt.data.types import SPLITS
from vlmadapt.errors import FileError, InputError, VlmadaptError, shown
from vlmadapt.files import parse_json, read_text
from vlmadapt.generative.data.records import LABELS, Record, RecordSet, TaskName, counted
from vlmadapt.pictures import read
from vlmadapt.pictures.read import digest_of

ENDING = ".jsonl"
MOST_LINE = 1 << 20  # characters of a line: no question is as long
SHARE = 0.15  # of the pictures, for validation and for testing each
MOST_SHOWN = 60  # characters of a value in a sentence
PICTURE = ("image", "picture", "path", "file_name")
CAPTIONS, QUESTION, ANSWERS = ("caption", "captions"), ("question",), ("answers", "answer")
HYPOTHESIS, LABEL = ("hypothesis", "statement"), ("label",)
SAID = {"yes": "entailment", "maybe": "neutral", "no": "contradiction"}  # other words for the labels
FORMS: dict[TaskName, str] = {
    "caption": '{"image": ..., "caption": ...}',
    "vqa": '{"image": ..., "question": ..., "answers": [...]}',
    "entailment": '{"image": ..., "hypothesis": ..., "label": ...}',
}


def is_own(name: str | Path) -> bool:
    """Whether ``name`` is that of such a file, by its ending."""
    return Path(name).suffix.lower() == ENDING


class Line(NamedTuple):
    """One line of a file: where it is, and what it says by key."""

    place: str
    number: int
    content: Mapping[str, Any]

    def first(self, keys: Sequence[str]) -> tuple[str, Any] | None:
        """The first of ``keys`` that is there, with its value."""
        return next(((key, self.content[key]) for key in keys if key in self.content), None)

    @property
    def task(self) -> TaskName | None:
        """What it is for, by its keys."""
        for task, keys in (("entailment", HYPOTHESIS), ("vqa", QUESTION), ("caption", CAPTIONS)):
            if self.first(keys) is not None:
                return task  # type: ignore[return-value]
        return None


def task_of(path: str | Path) -> TaskName | None:
    """What the records of a file are for, by its first line that can be read; None where they are no such records."""
    for line in _lines(Path(path)):
        if isinstance(line, Line):
            return line.task
    return None


def read_own(path: str | Path, task: TaskName, root: str | Path | None = None, check_files: bool = True) -> RecordSet:
    """Read such a file for ``task``; ``root`` is the folder its paths count from, by default its own.

    Lines about one picture are one record of captions. With ``split`` in each line (train, val, test) it counts; where
    no line is of validation, a part of the training pictures becomes it. Without, ``SHARE`` of the pictures are for
    validation, as many for testing, and the rest for training.
    Raises :class:`FileError` or :class:`InputError` naming the file and the line of what is wrong.
    """
    path = Path(path)
    folder = path.parent if root is None else Path(root)
    found: list[Found] = []
    for line in _lines(path):
        if isinstance(line, VlmadaptError):
            raise line
        found.append(_found(path, folder, line, task))
    if not found:
        raise InputError(f"{shown(path)} has no records: write a line {FORMS[task]} each.")
    if check_files:
        _refuse_missing(path, found)
    return _dealt(path, folder, task, found, check_files)


@dataclass(frozen=True)
class Found:
    """A record, and the line and split that it was read from."""

    line: int
    record: Record
    split: str | None


@dataclass(frozen=True)
class RecordCheck:
    """What :func:`check_own` found: a line about the whole, what is wrong, and whether it can be used."""

    summary: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def lines(self) -> list[str]:
        """The summary, the problems, and a verdict at the end."""
        number = len(self.problems)
        verdict = "nothing wrong found" if self.ok else f"{number} problem{'s' * (number > 1)} found"
        return [self.summary, *self.problems, verdict]


def check_own(path: str | Path) -> RecordCheck:
    """Read every line and every picture of such a file and say all that is wrong."""
    path = Path(path)
    problems: list[str] = []
    found: list[Found] = []
    task: TaskName | None = None
    for line in _lines(path):
        if isinstance(line, VlmadaptError):
            problems.append(str(line))
            continue
        task = task or line.task
        try:
            found.append(_found(path, path.parent, line, task or "caption"))
        except VlmadaptError as error:
            problems.append(str(error))
    first: dict[Path, int] = {}
    for each in found:
        first.setdefault(each.record.image, each.line)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        trouble = list(pool.map(_trouble, first))
    problems += [
        f"{shown(path)} line {line}: {text}"
        for (line, text) in zip(first.values(), trouble, strict=True)
        if text is not None
    ]
    summary = f"{path.name}: {len(found)} records for {task or 'no task'}, {len(first)} pictures"
    if found and not problems and task is not None:
        try:
            records = _dealt(path, path.parent, task, found, True)
            parts = ", ".join(f"{len(records.split(split))} {split}" for split in SPLITS)
            summary += f" ({parts})"
        except VlmadaptError as error:
            problems.append(str(error))
    if not found and not problems:
        problems.append(f"{shown(path)} has no records: write a line {' or '.join(FORMS.values())} each.")
    return RecordCheck(summary, tuple(problems))


def _trouble(image: Path) -> str | None:
    if not os.path.isfile(image):
        return f"{shown(image)} is not there: restore it or correct the path."
    try:
        read(image)
    except VlmadaptError as error:
        return str(error)
    return None


def _lines(path: Path) -> Iterator[Line | VlmadaptError]:
    """Each line of the file, or what is wrong with it."""
    for number, text in enumerate(io.StringIO(read_text(path)), start=1):
        if not text.strip():
            continue
        place = f"{shown(path)} line {number}"
        if len(text) > MOST_LINE:
            yield FileError(
                f"{place} has {len(text):,} characters, more than the {MOST_LINE:,} that are read: split it."
            )
            continue
        try:
            content = parse_json(text, path, number)
        except FileError as error:
            yield error
            continue
        if not isinstance(content, dict):
            yield InputError(f"{place} is not a JSON object: write {' or '.join(FORMS.values())}.")
            continue
        keys = [plain(key) for key in content]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated is not None:
            yield InputError(f"{place} gives {repeated!r} twice in other letters: keep one of them.")
            continue
        yield Line(place, number, dict(zip(keys, content.values(), strict=True)))


def _found(path: Path, folder: Path, line: Line, task: TaskName) -> Found:
    if line.task is not None and line.task != task:
        raise InputError(f"{line.place} is for {line.task}, by its keys, and not for {task}: give --task {line.task}.")
    name = _text(line, PICTURE, task)
    if "://" in name:
        raise InputError(f"{line.place} has the picture {_shown(name)}, which is no file: download it first.")
    image = Path(os.path.normpath(picture_path(path, folder, name)))
    word = line.content.get("split")
    split = None if word is None else split_named(word) if isinstance(word, str) else None
    if word is not None and split is None:
        raise InputError(f"{line.place} has the split {_shown(word)}: write train, val or test.")
    given = line.content.get("id", line.number)
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise InputError(f"{line.place} has the id {_shown(given)}: write a text or a whole number, or leave it out.")
    common: dict[str, Any] = {
        "id": str(given),
        "image": image,
        "split": "",
        "kind": str(line.content.get("kind") or ""),
    }
    if task == "caption":
        record = Record(**common, captions=tuple(_texts(line, CAPTIONS, task)))
    elif task == "vqa":
        prompt = _text(line, QUESTION, task)
        record = Record(**common, prompt=prompt, answers=counted(_texts(line, ANSWERS, task)))
    else:
        record = Record(**common, prompt=_text(line, HYPOTHESIS, task), label=_label(line, task))
    return Found(line.number, record, "val" if split == "eval" else split)


def _text(line: Line, keys: Sequence[str], task: TaskName) -> str:
    """The text under the first of ``keys``."""
    found = line.first(keys)
    if found is None:
        there = ", ".join(map(shown, line.content)) or "none"
        raise InputError(f"{line.place} has no {keys[0]} (its keys: {there}): write {FORMS[task]}.")
    return _checked(line, *found)


def _texts(line: Line, keys: Sequence[str], task: TaskName) -> list[str]:
    """The texts under the first of ``keys``: a list, or one alone."""
    found = line.first(keys)
    if found is not None and isinstance(found[1], list) and found[1]:
        return [_checked(line, found[0], value) for value in found[1]]
    return [_text(line, keys, task)]


def _checked(line: Line, key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(f"{line.place} has the {key} {_shown(value)}: write a text.")
    text = " ".join(str(value).split())
    if not is_utf8(text) or "\0" in text:
        raise InputError(f"{line.place} has the {key} {_shown(value)}, which is not UTF-8 text: correct it.")
    if not any(letter.isprintable() and not letter.isspace() for letter in text):
        raise InputError(f"{line.place} has the {key} {_shown(value)}: write a text with a visible character.")
    return text


def _label(line: Line, task: TaskName) -> str:
    word = _text(line, LABEL, task).lower()
    label = SAID.get(word, word)
    if label not in LABELS:
        raise InputError(f"{line.place} has the label {_shown(word)}: use {', '.join(LABELS)}, or {', '.join(SAID)}.")
    return label


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _refuse_missing(path: Path, found: Sequence[Found]) -> None:
    missing = [each for each in found if not os.path.isfile(each.record.image)]
    if missing:
        pictures = len({each.record.image for each in missing})
        more = f" ({pictures - 1} more are missing)" if pictures > 1 else ""
        raise FileError(
            f"{shown(path)} line {missing[0].line} names {shown(missing[0].record.image)}, where there is no picture"
            f"{more}: restore it, correct the path, or run `vlmadapt data check` for the whole list."
        )


def _dealt(path: Path, folder: Path, task: TaskName, found: Sequence[Found], check_files: bool) -> RecordSet:
    """The records in their splits."""
    contents = _contents({each.record.image for each in found})
    split_of = _given_splits(path, found, contents)
    least = 2 if task == "caption" else 1  # CIDEr compares captions of pictures with each other
    if split_of is None:
        order = _ordered(contents.values())
        number = max(least, round(SHARE * len(order)))
        if len(order) < 2 * number + 1:
            raise InputError(
                f"{shown(path)} shows {len(order)} different pictures: give at least {2 * least + 1}, or write a "
                "split in each line."
            )
        split_of = {content: "test" for content in order[:number]}
        split_of |= {content: "val" for content in order[number : 2 * number]}
    elif "val" not in split_of.values():
        order = _ordered(content for content, split in split_of.items() if split == "train")
        split_of |= {content: "val" for content in order[: max(least, round(SHARE * len(order)))]}
    parts: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for each in found:
        split = split_of.get(contents[each.record.image], "train")
        parts[split].append(replace(each.record, split=split))
    if task == "caption":
        parts = {split: _by_picture(records) for split, records in parts.items()}
    records = {split: tuple(part) for split, part in parts.items()}
    return RecordSet(path.stem, task, folder, records["train"], records["val"], records["test"], check_files)


def _contents(images: Iterable[Path]) -> dict[Path, str]:
    """The sha256 of each picture's bytes; of one that is not there, its path."""
    ordered = sorted(images)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda image: digest_of(image) if os.path.isfile(image) else str(image), ordered)
        return dict(zip(ordered, digests, strict=True))


def _given_splits(path: Path, found: Sequence[Found], contents: Mapping[Path, str]) -> dict[str, str] | None:
    """The split of each picture by content, where lines give it; None where none does."""
    without = next((each for each in found if each.split is None), None)
    if all(each.split is None for each in found):
        return None
    if without is not None:
        raise InputError(f"{shown(path)} line {without.line} has no split while others do: write train, val or test.")
    first: dict[str, Found] = {}
    for each in found:
        other = first.setdefault(contents[each.record.image], each)
        if other.split != each.split:
            raise InputError(
                f"{shown(path)} has one picture in {other.split} on line {other.line} and in {each.split} on line "
                f"{each.line}: keep it in one split."
            )
    splits = {each.split for each in found}
    for needed in ("train", "test"):
        if needed not in splits:
            raise InputError(f"{shown(path)} has no line with split {needed}: mark some, or leave splits out.")
    return {content: str(each.split) for content, each in first.items()}


def _ordered(contents: Iterable[str]) -> list[str]:
    return sorted(set(contents), key=lambda content: hashlib.sha256(f"split\0{content}".encode()).digest())


def _by_picture(records: Sequence[Record]) -> list[Record]:
    """One record a picture, with all of its captions."""
    groups: dict[Path, Record] = {}
    for record in records:
        known = groups.get(record.image)
        more = (*known.captions, *record.captions) if known is not None else record.captions
        groups[record.image] = replace(known or record, captions=tuple(dict.fromkeys(more)))
    return list(groups.values())
