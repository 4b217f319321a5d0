"""Where in a folder the splits and the classes are."""

from __future__ import annotations

from pathlib import Path

from vlmadapt.data.names import FILE_KINDS, resolve_eval, speaks_of_no_labels, split_word
from vlmadapt.data.walk import LeftOut, counted, holds_pictures, scan
from vlmadapt.errors import InputError, shown
from vlmadapt.pictures import Kind, kind_of

FLAT = "holds pictures without class folders"


def unwrapped(root: Path, left_out: LeftOut) -> Path:
    """``root``, or the folder in it that holds all pictures, when that holds two or more folders of pictures."""
    place = inner = root
    while (only := _only_folder(inner)) is not None:
        inner = only
        if len(with_pictures(inner)) > 1 and not _pictures(inner):
            place = inner
    if place != root:
        left_out.notes.append(f"read from {shown(place)}, the one folder in {shown(root)} that holds pictures")
    return place


def find_splits(root: Path, left_out: LeftOut) -> dict[str, Path]:
    """The train/val/test folders below ``root``; empty where its folders are classes.

    The name of each must speak of a split, and its other words be those of the training folder or fillers.
    ``train`` must have class folders inside and, unless all else is without labels, another split beside it: a class
    that happens to be called "train" is still a class. Splits without class folders are left out, which ``left_out``
    tells, as it does of other folders. Raises :class:`InputError` for two folders of one split.
    """
    folders, _ = scan(root, LeftOut())
    spoken = [(path, word) for path in folders if (word := split_word(path.name)) is not None]
    for path, (split, rest) in spoken:
        if split != "train" or not with_pictures(path):
            continue
        group = [(each, word[0]) for each, word in spoken if word[1] in ((), rest)]
        others = [each for each in folders if each not in [one for one, _ in group]]
        if len(group) > 1 or _is_alone(path, others):
            found = resolve_eval(_one_each(group))
            found.pop("eval", None)
            _note_others(others, [each for each, _ in group if each not in found.values()], left_out)
            left_out.note_loose(root, scan(root, left_out)[1])
            return _usable(found, left_out)
    return {}


def _is_alone(train: Path, others: list[Path]) -> bool:
    """Whether ``train`` is a split though no other is beside it: it has classes, and the other folders have none."""
    classes = len(with_pictures(train)) > 1 and not _pictures(train)
    return classes and all(speaks_of_no_labels(each.name) or not with_pictures(each) for each in others)


def _one_each(group: list[tuple[Path, str]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path, split in group:
        if split in found:
            raise InputError(f"{shown(found[split])} and {shown(path)} both name the {split} split: keep one of them.")
        found[split] = path
    return found


def _note_others(others: list[Path], unread: list[Path], left_out: LeftOut) -> None:
    beside = [*others, *unread]
    if beside:
        left_out.notes.append(f"{counted(beside, 'folder')} beside the splits left out")


def _usable(found: dict[str, Path], left_out: LeftOut) -> dict[str, Path]:
    """The splits that hold class folders, where these lie."""
    usable = {}
    for split, path in found.items():
        place = path
        while (inner := _only_folder(place)) is not None and _wraps(inner) and with_pictures(inner):
            place = inner
        if with_pictures(place):
            usable[split] = place
            continue
        loose = _pictures(place)
        what = f"{FLAT} ({len(loose)})" if loose else "holds no pictures"
        left_out.doubts.append(f"{shown(path)} {what}: it is left out, so there is no {split} split")
    return usable


def _wraps(inner: Path) -> bool:
    """Whether a folder only repeats what is above it: train/train/cat, train/images/cat."""
    return split_word(inner.name) is not None or inner.name.casefold() in FILE_KINDS


def _only_folder(folder: Path) -> Path | None:
    """The one folder in ``folder`` that holds pictures, where no pictures lie beside it."""
    holding = with_pictures(folder)
    return holding[0] if len(holding) == 1 and not _pictures(folder) else None


def with_pictures(folder: Path) -> list[Path]:
    return [path for path in scan(folder, LeftOut())[0] if holds_pictures(path)]


def _pictures(folder: Path) -> list[Path]:
    return [path for path in scan(folder, LeftOut())[1] if kind_of(path) is Kind.PICTURE]
