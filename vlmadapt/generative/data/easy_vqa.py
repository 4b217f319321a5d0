"""easy-VQA (PyPI package ``easy-vqa``, MIT): 5,000 pictures of one shape each, as three tasks that need no download.

Ours are: the share of pictures kept for training a model from scratch, the question types held out from it, as many of
each answer, the captions (of measured attributes), the statements (from yes/no questions) and the covered pictures of
neutral ones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from vlmadapt.atomic import remove_leftovers
from vlmadapt.data.builtin import package_folder
from vlmadapt.data.cache import user_cache_dir
from vlmadapt.errors import FileError, InputError
from vlmadapt.generative.data.records import Record, RecordSet, TaskName, find_file, read_list
from vlmadapt.generative.data.shapes import COLOURS, COVER, SHAPES, Facts, cover, measure, read_picture, write_picture

# Of the 4,000 training pictures, ordered by a hash: for the model from scratch, for adapting it, for validation.
PRETRAIN, ADAPT = 2600, 1000
# Types of question. The model from scratch sees the first four only; adapting is to the others.
SEEN = ("which shape", "which colour", "is shape", "is colour")
HELD_OUT = ("shape of colour", "colour of shape", "no shape", "no colour")

_THING = f"(?P<thing>{'|'.join(SHAPES)}|(?:{'|'.join(COLOURS)}) shape)"
_STATEMENTS = {
    rf"does the image contain a {_THING}\?": "the image contains a {}",
    rf"is there a {_THING} in the image\?": "there is a {} in the image",
    rf"is there a {_THING}\?": "there is a {}",
    rf"is a {_THING} present\?": "a {} is present",
    rf"does the image not contain a {_THING}\?": "the image does not contain a {}",
    rf"is there not a {_THING} in the image\?": "there is not a {} in the image",
    rf"is there not a {_THING}\?": "there is not a {}",
    rf"is no {_THING} present\?": "no {} is present",
}
_ABOUT_SHAPE = re.compile(r"what shape .*|what is the (?P<colour>\w+) shape\?")
_ABOUT_COLOUR = re.compile(r"what (?:color is|is the color of) the (?P<thing>\w+)\?")


def question_kind(question: str) -> str:
    """The type of a question: one of ``SEEN`` or ``HELD_OUT``; raises :class:`InputError` for another text."""
    if statement_of(question) is not None:
        denied = " not " in question or question.startswith("is no ")
        return f"{'no' if denied else 'is'} {'colour' if ' shape' in question else 'shape'}"
    match = _ABOUT_COLOUR.fullmatch(question)
    if match:
        return "which colour" if match["thing"] == "shape" else "colour of shape"
    match = _ABOUT_SHAPE.fullmatch(question)
    if match:
        return "which shape" if match["colour"] is None else "shape of colour"
    raise InputError(f"question is {question!r}, which is none of easy-VQA's: pass one of its questions.")


def statement_of(question: str) -> str | None:
    """``"is there a blue shape?"`` -> ``"there is a blue shape"``; None for a question that is not yes/no (ours)."""
    for pattern, statement in _STATEMENTS.items():
        match = re.fullmatch(pattern, question)
        if match:
            return statement.format(match["thing"])
    return None


def captions_of(facts: Facts) -> tuple[str, ...]:
    """Three references of one picture (ours): colour, shape, size and place."""
    thing = f"a {facts.size} {facts.colour} {facts.shape}"
    return (
        f"{thing} at the {facts.place}",
        f"the image shows {thing} at the {facts.place}",
        f"at the {facts.place} there is {thing}",
    )


def read_easy_vqa(task: TaskName, check_files: bool = True) -> RecordSet:
    """The part of easy-VQA that adapts a model: 1,000 pictures for training, 400 for validation, 1,000 for testing.

    ``vqa`` asks the held-out types of question, within each as often for one answer as for another; ``caption``
    describes each picture in three sentences; ``entailment`` turns held-out yes/no questions into statements, as many
    of each label, the neutral ones about pictures whose shape is covered. Raises :class:`MissingDependency` when the
    package ``easy-vqa`` is absent.
    """
    root = package_root()
    parts = {"train": _of_task(task, root, "train"), "val": _of_task(task, root, "val")}
    parts["test"] = _of_task(task, root, "test")
    return RecordSet("easy-vqa", task, root, check_files=check_files, **parts)


def package_root() -> Path:
    return package_folder("easy_vqa", "easy-vqa==1.0") / "data"


def pictures(part: str) -> list[Path]:
    """Pictures of ``pretrain``, ``train``, ``val`` or ``test``."""
    root = package_root()
    if part == "test":
        return _numbered(root / "test" / "images")
    hashed = sorted(_numbered(root / "train" / "images"), key=lambda path: _digest("part", path.name))
    bounds = {"pretrain": (0, PRETRAIN), "train": (PRETRAIN, PRETRAIN + ADAPT), "val": (PRETRAIN + ADAPT, len(hashed))}
    return hashed[slice(*bounds[part])]


def questions(part: str, kinds: Sequence[str]) -> list[Record]:
    """Questions of ``kinds`` about the :func:`pictures` of ``part``. Raises :class:`FileError` for a malformed list."""
    chosen = {path: None for path in pictures(part)}
    folder = package_root() / ("test" if part == "test" else "train")
    listing = find_file(folder, ["questions.json"], "easy-VQA questions")
    records = []
    for number, entry in enumerate(read_list(listing)):
        match entry:
            case [str() as question, str() as answer, int() as picture]:
                image = folder / "images" / f"{picture}.png"
            case _:
                raise FileError(f"{listing}: entry {number} is {entry!r}: it must be [question, answer, picture].")
        if image in chosen:
            kind = question_kind(question)
            if kind in kinds:
                name = f"{folder.name}-{number}"
                records.append(Record(name, image, part, question, answers=((answer, 1),), kind=kind))
    return records


def _of_task(task: TaskName, root: Path, part: str) -> tuple[Record, ...]:
    if task == "vqa":
        return tuple(_balanced(questions(part, HELD_OUT), "answer", lambda record: record.answers[0][0]))
    if task == "caption":
        return tuple(
            Record(f"{image.parent.parent.name}-{image.stem}", image, part, captions=captions_of(facts_of(image)))
            for image in pictures(part)
        )
    return tuple(_statements(part))


def _statements(part: str) -> list[Record]:
    """Statements that deny something, balanced: of each type as many are entailed, contradicted and neutral.

    Those that affirm would tell no method from another: the model from scratch has learnt their questions."""
    made = []
    for record in questions(part, [kind for kind in HELD_OUT if kind.startswith("no ")]):
        statement = statement_of(record.prompt)
        assert statement is not None
        covered = _digest("cover", record.image.name)[0] % 3 == 0
        label = "neutral" if covered else "entailment" if record.answers[0][0] == "yes" else "contradiction"
        made.append(replace(record, prompt=statement, answers=(), label=label))
    balanced = _balanced(made, "statement", lambda record: record.label)
    hidden = covered_pictures([record.image for record in balanced if record.label == "neutral"])
    return [replace(record, image=hidden[record.image]) if record.label == "neutral" else record for record in balanced]


def _balanced(records: Iterable[Record], purpose: str, right: Callable[[Record], str]) -> list[Record]:
    """Of each type of question as many with one ``right`` answer as with another, drawn by a hash; in their order."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.kind, right(record)), []).append(record)
    kept = []
    for (kind, _), group in groups.items():
        least = min(len(other) for (other_kind, _), other in groups.items() if other_kind == kind)
        kept += sorted(group, key=lambda record: _digest(purpose, record.id))[:least]
    return sorted(kept, key=lambda record: int(record.id.rpartition("-")[2]))


def covered_pictures(images: Iterable[Path]) -> dict[Path, Path]:
    """Copies of ``images`` with their shapes covered, written once into the user's cache folder.

    What killed processes left there is removed.
    """
    folder = user_cache_dir() / f"easy-vqa-covered-{COVER}"
    remove_leftovers(folder)
    return {image: _covered_picture(image, folder) for image in images}


def _covered_picture(image: Path, folder: Path) -> Path:
    name = f"{image.parent.parent.name}-{image.name}"
    path = folder / name
    if not path.is_file():
        picture = read_picture(image)
        write_picture(cover(picture, measure(picture, image), name), path)
    return path


def facts_of(image: Path) -> Facts:
    return measure(read_picture(image), image)


def _numbered(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.png"), key=lambda path: int(path.stem))
    if not found:
        raise FileError(f"{folder} holds no pictures: reinstall easy-vqa==1.0.")
    return found


def _digest(purpose: str, name: str) -> bytes:
    return hashlib.sha256(f"{purpose}\0{name}".encode()).digest()
