"""Pictures of known classes, in whatever tree of folders they lie: what a classifier is tested on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vlmadapt.data.folder import read_folder
from vlmadapt.data.layout import find_splits, unwrapped, with_pictures
from vlmadapt.data.names import class_name_of, resolve_eval, split_named
from vlmadapt.data.types import Dataset
from vlmadapt.data.walk import LeftOut, counted, holds_pictures, list_images, scan


class Branch(NamedTuple):
    """One folder of class folders; ``name`` is its path from the top of the tree."""

    name: str
    data: Dataset


class Tree(NamedTuple):
    """``branches``, and what lies beside them: pictures of each folder in which there is no class folder."""

    branches: list[Branch]
    strays: dict[str, int]
    notes: tuple[str, ...]


def read_tree(root: Path, class_names: Sequence[str], seed: int = 0) -> Tree | None:
    """The folders below ``root`` that hold a folder of one of ``class_names``, each read by itself, and those beside.

    Domains, cameras or days may lie above the classes, at any depth. Where folders beside each other are called after
    splits (``val``, ``test``) the test split is taken alone. None where the classes lie at the top, in splits or not:
    that is an ordinary folder; and where none of ``class_names`` is found. Raises what
    :func:`vlmadapt.data.folder.read_folder` raises.
    """
    place, known = unwrapped(root, LeftOut()), {class_name_of(name) for name in class_names}
    left_out = LeftOut()
    levels = _levels(place, known, left_out)
    if levels in ([], [place]):
        return None
    strays = {str(each.relative_to(place)): len(list_images(each)) for each in levels if not with_pictures(each)}
    branches = [
        Branch(str(each.relative_to(place)), read_folder(each, seed, also=class_names))
        for each in levels
        if with_pictures(each)
    ]
    return Tree(branches, strays, left_out.all_notes())


def _levels(folder: Path, known: set[str], left_out: LeftOut) -> list[Path]:
    """``folder``, where its folders are classes or splits of them, else the same of those in it; one that holds other
    pictures stands for itself where there are classes beside it."""
    folders, files = scan(folder, LeftOut())
    if any(class_name_of(each.name) in known for each in folders) or find_splits(folder, LeftOut()):
        return [folder]
    splits = {split: each for each in folders if (split := split_named(each.name)) is not None}
    if len(splits) == len(folders) > 1 and "test" in (splits := resolve_eval(splits)):
        others = [each for each in folders if each != splits["test"]]
        left_out.notes.append(f"{counted(others, 'folder')} beside the test split left out")
        folders = [splits["test"]]
    below = {each: _levels(each, known, left_out) for each in folders}
    if not any(below.values()):
        return []
    left_out.note_loose(folder, files)
    return [level for each, found in below.items() for level in (found or ([each] if holds_pictures(each) else []))]
