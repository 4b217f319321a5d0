"""What the generative tasks learn from: pictures with a prompt and captions, answers or a label."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from vlmadapt.data.names import is_utf8
from vlmadapt.data.splitting import VAL_SHARE
from vlmadapt.data.types import SPLITS, relative_key
from vlmadapt.errors import FileError, InputError
from vlmadapt.files import read_json

TaskName = Literal["caption", "vqa", "entailment"]
TASKS: tuple[TaskName, ...] = ("caption", "vqa", "entailment")
LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Record:
    """One example of a generative task.

    ``prompt`` is the question of ``vqa``, the hypothesis of ``entailment``, empty for ``caption``. ``captions`` are the
    references of a picture; ``answers`` the distinct answers with how many people gave each; ``label`` is one of
    entailment, neutral, contradiction. ``kind`` names the type of question where the data tell it, for reports by type.
    """

    id: str
    image: Path
    split: str
    prompt: str = ""
    captions: tuple[str, ...] = ()
    answers: tuple[tuple[str, int], ...] = ()
    label: str = ""
    kind: str = ""

    def line(self, root: Path) -> str:
        """What a split hash sees of the record: one line, independent of where ``root`` lies."""
        content = (self.prompt, self.captions, self.answers, self.label)
        return f"{self.split}\t{self.id}\t{relative_key(self.image, root)}\t{content!r}\n"


@dataclass(frozen=True)
class RecordSet:
    """Three splits of records of one task; no picture is in two of them.

    Raises :class:`InputError` for an empty split, a repeated id or a record without what its task needs, and
    :class:`FileError` listing the first pictures that are not on the disk (``check_files=False`` skips that test).
    """

    name: str
    task: TaskName
    root: Path
    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    check_files: bool = True

    def __post_init__(self) -> None:
        seen: dict[Path, str] = {}
        for split in SPLITS:
            records = self.split(split)
            if not records:
                raise InputError(f"{self.name} has no {split} records for {self.task}: check its {split} files.")
            repeated = [name for name, count in Counter(record.id for record in records).items() if count > 1]
            if repeated:
                raise InputError(f"{self.name} has the id {repeated[0]!r} twice in {split}: ids must be unique.")
            for record in records:
                _check_content(record, self.task)
                if seen.setdefault(record.image, split) != split:
                    raise InputError(f"{record.image} is in {seen[record.image]} and in {split}: keep it in one split.")
        if self.check_files:
            missing = [image for image in seen if not os.path.isfile(image)]
            if missing:
                raise FileError(
                    f"{self.name} lists {len(missing)} picture(s) that are not there, first {missing[0]}: restore them "
                    "or correct --root."
                )

    def split(self, name: str) -> tuple[Record, ...]:
        """``train``, ``val`` or ``test`` by name."""
        return cast("tuple[Record, ...]", getattr(self, name))

    @property
    def split_hash(self) -> str:
        """sha256 (hex) over the sorted lines of all records; neither order nor the place of ``root`` changes it."""
        lines = sorted(record.line(self.root) for split in SPLITS for record in self.split(split))
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def limited(self, train: int | None, val: int | None, test: int | None, seed: int = 0) -> RecordSet:
        """At most so many records a split (``None``: all), drawn by ``seed``; validation and test by seed 0 always.

        Raises :class:`InputError` for a limit below 1.
        """
        parts: dict[str, Any] = {}
        for split, count, drawn_by in (("train", train, seed), ("val", val, 0), ("test", test, 0)):
            if count is not None and count < 1:
                raise InputError(f"the limit on {split} records is {count}: give at least 1.")
            records = self.split(split)
            parts[split] = records if count is None else tuple(_shuffled(records, drawn_by, split)[:count])
        return replace(self, check_files=False, **parts)


def _shuffled(records: Iterable[Record], seed: int, purpose: str) -> list[Record]:
    return sorted(records, key=lambda record: _digest(purpose, seed, record.id))


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()


def _check_content(record: Record, task: TaskName) -> None:
    if task == "caption" and not any(letter.isalnum() for text in record.captions for letter in text):
        raise InputError(f"record {record.id} has no captions with words: captioning needs at least one a picture.")
    if task != "caption" and not record.prompt.strip():
        raise InputError(f"record {record.id} has an empty prompt: {task} needs a question or hypothesis.")
    if task == "vqa" and not record.answers:
        raise InputError(f"record {record.id} has no answers: leave questions without answers out.")
    if task == "vqa" and not all(answer.strip() and count > 0 for answer, count in record.answers):
        raise InputError(f"record {record.id} has the answers {record.answers}: give texts, and how many gave each.")
    if task == "entailment" and record.label not in LABELS:
        raise InputError(f"record {record.id} has the label {record.label!r}: use {', '.join(LABELS)}.")


def carve_val_by_image(
    records: Sequence[Record], root: Path, share: float = VAL_SHARE
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """(train, val): the records of ``share`` of the pictures become validation; the choice hashes relative paths."""
    images = sorted({record.image for record in records}, key=lambda image: _digest("val", relative_key(image, root)))
    chosen = set(images[: max(1, round(share * len(images)))]) if len(images) > 1 else set()
    train = tuple(record for record in records if record.image not in chosen)
    return train, tuple(replace(record, split="val") for record in records if record.image in chosen)


def counted(answers: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Distinct answers with their counts, most frequent first, then alphabetical."""
    return tuple(sorted(Counter(answers).items(), key=lambda item: (-item[1], item[0])))


def find_file(root: Path, names: Sequence[str], what: str) -> Path:
    """The first of ``names`` in ``root``, ``root/annotations`` or ``root/Annotations``; else :class:`FileError`."""
    for name in names:
        for folder in (root, root / "annotations", root / "Annotations"):
            if (folder / name).is_file():
                return folder / name
    raise FileError(f"{root} holds no {' or '.join(names)} ({what}): give the folder that holds it as --root.")


def read_list(path: Path, key: str | None = None) -> list[Any]:
    """The list in a JSON file, or below ``key`` of its object. Raises :class:`FileError` naming the file."""
    content = read_json(path)
    if key is not None:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, list):
        where = "a list" if key is None else f"an object with a list {key!r}"
        raise FileError(f"{path} is not of the published format: it must hold {where}.")
    return content


class Entry:
    """One entry of an annotation file; whatever is missing or of a wrong type raises :class:`FileError` naming it."""

    def __init__(self, path: Path, place: str, content: Any) -> None:
        self.path, self.place = path, place
        if not isinstance(content, Mapping):
            raise FileError(f"{path}: {place} is not an object: correct the file.")
        self.content = content

    def text(self, *keys: str) -> str:
        """The first of ``keys`` that is there, as text with its white space tidied; numbers are accepted.

        Raises :class:`FileError` where none is there, or one that is no UTF-8.
        """
        for key in keys:
            value = self.content.get(key)
            if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
                text = " ".join(str(value).split())
                if not is_utf8(text) or "\0" in text:
                    raise FileError(
                        f"{self.path}: {self.place} has {text!r}, which is not UTF-8 text: correct the file."
                    )
                if text:
                    return text
        raise FileError(f"{self.path}: {self.place} has no text {' or '.join(map(repr, keys))}: correct the file.")

    def number(self, key: str) -> int:
        """The whole number under ``key``, else :class:`FileError`."""
        value = self.content.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise FileError(f"{self.path}: {self.place} has no whole number {key!r}: correct the file.")
        return value

    def entries(self, key: str) -> Iterator[Entry]:
        """The entries of the list under ``key``, else :class:`FileError`."""
        value = self.content.get(key)
        if not isinstance(value, list):
            raise FileError(f"{self.path}: {self.place} has no list {key!r}: correct the file.")
        for position, content in enumerate(value):
            yield Entry(self.path, f"{self.place}, {key}[{position}]", content)


def entries(path: Path, key: str | None = None) -> Iterator[Entry]:
    """All entries of a JSON list file, named ``entry 0`` onwards."""
    for position, content in enumerate(read_list(path, key)):
        yield Entry(path, f"entry {position}", content)
