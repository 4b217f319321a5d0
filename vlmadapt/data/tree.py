"""Pictures of known classes, in whatever tree of folders they lie: what a classifier is tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vlmadapt.data.folder import read_folder
from vlmadapt.data.layout import find_splits, unwrapped
from vlmadapt.data.names import class_name_of, resolve_eval, split_named
from vlmadapt.data.types import Dataset
from vlmadapt.data.walk import LeftOut, counted, scan


class Branch(NamedTuple):
    """One folder of class folders; ``name`` is its path from the top of the tree."""

    name: str
    data: Dataset


def read_branches(root: Path, class_names: Sequence[str], seed: int = 0) -> tuple[list[Branch], tuple[str, ...]]:
    """(branches, notes): the folders below ``root`` that hold a folder of one of ``class_names``, each read by itself.

    Domains, cameras or days may lie above the classes, at any depth. Where folders beside each other are called after
    splits (``val``, ``test``) the test split is taken alone. Empty where the classes lie at the top, in splits or not:
    that is an ordinary folder; and where none of ``class_names`` is found. Raises what
    :func:`vlmadapt.data.folder.read_folder` raises.
    """
    place, known = unwrapped(root, LeftOut()), {class_name_of(name) for name in class_names}
    left_out = LeftOut()
    levels = list(_levels(place, known, left_out))
    if levels in ([], [place]):
        return [], ()
    branches = [Branch(str(each.relative_to(place)), read_folder(each, seed, also=class_names)) for each in levels]
    return branches, left_out.all_notes()


def _levels(folder: Path, known: set[str], left_out: LeftOut) -> Iterator[Path]:
    """``folder``, where its folders are classes or splits of them, else the same of those in it."""
    folders, _ = scan(folder, LeftOut())
    if any(class_name_of(each.name) in known for each in folders) or find_splits(folder, LeftOut()):
        yield folder
        return
    splits = {split: each for each in folders if (split := split_named(each.name)) is not None}
    if len(splits) == len(folders) > 1 and "test" in (splits := resolve_eval(splits)):
        others = [each for each in folders if each != splits["test"]]
        left_out.notes.append(f"{counted(others, 'folder')} beside the test split left out")
        folders = [splits["test"]]
    for each in folders:
        yield from _levels(each, known, left_out)
