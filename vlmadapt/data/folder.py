"""Image folders: one folder per class, with or without train/val/test folders above them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlmadapt.data.splitting import carve_val, split_by_seed
from vlmadapt.data.templates import DEFAULT
from vlmadapt.data.types import SPLITS, Dataset, Sample
from vlmadapt.errors import FileError, InputError, naming_file
from vlmadapt.pictures import SUFFIXES

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def class_name_of(folder_name: str) -> str:
    """``road_sign`` -> ``road sign``; unicode is composed, so that equal names compare equal."""
    return " ".join(unicodedata.normalize("NFC", folder_name).replace("_", " ").split())


def list_images(folder: Path) -> list[Path]:
    """Pictures in ``folder`` and its subfolders, by file ending, sorted.

    Hidden files and folders are left out; links are followed, each real folder once. A link that leads nowhere is
    listed, so that whoever opens it can name it.
    """
    return sorted(_walk(folder, {folder.resolve()}))


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    for path in _visible(folder):
        if path.is_dir():
            real = path.resolve()
            if real not in seen:
                seen.add(real)
                yield from _walk(path, seen)
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _visible(folder: Path) -> list[Path]:
    with naming_file(folder, "read"):
        return sorted(Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith("."))


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def find_splits(root: Path) -> dict[str, Path]:
    """The train/val/test folders below ``root``; empty where its folders are classes.

    ``train`` must have class folders inside and, unless it is alone, ``val`` or ``test`` beside it: a class that
    happens to be called "train" is still a class. Raises :class:`InputError` for two folders of one split.
    """
    found: dict[str, Path] = {}
    folders = _subfolders(root)
    for path in folders:
        split = SPLIT_NAMES.get(path.name.lower())
        if split is None:
            continue
        if split in found:
            raise InputError(f"{found[split]} and {path} both name the {split} split: keep one of them.")
        found[split] = path
    if "train" not in found or not _subfolders(found["train"]):
        return {}
    return found if len(found) > 1 or len(folders) == 1 else {}


def read_folder(
    root: str | Path, seed: int = 0, name: str | None = None, templates: Sequence[str] = DEFAULT
) -> Dataset:
    """Read a folder of pictures.

    Layouts: ``root/{train,val,test}/<class>/...`` (``valid`` and ``validation`` are accepted; without a validation
    folder a fifth of each training class becomes one), or ``root/<class>/...``, split by ``seed`` as
    :func:`vlmadapt.data.splitting.split_by_seed` says. Class names are folder names with underscores as spaces.
    Raises :class:`FileError` for a missing folder and :class:`InputError` for an empty class, fewer than two classes,
    or two folders with the same class name.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileError(f"{root} is not a folder: give the folder that holds the class folders.")
    splits = find_splits(root)
    if not splits:
        files = _class_files(root)
        parts = split_by_seed(_label(files, sorted(files)), root, seed)
        class_names = sorted(files)
    else:
        if "test" not in splits:
            raise InputError(
                f"{root} has train and validation folders but no test folder: add one, or put all class folders "
                "directly below it to have them split by seed."
                if "val" in splits
                else f"{root} holds only a train folder: give {splits['train']} itself to have it split by seed."
            )
        per_split = {split: _class_files(path) for split, path in splits.items()}
        class_names = sorted({class_name for files in per_split.values() for class_name in files})
        parts = {split: tuple(_label(per_split.get(split, {}), class_names)) for split in SPLITS}
        if "val" not in splits:
            parts["train"], parts["val"] = carve_val(parts["train"], root, seed)
    return Dataset(
        name=name or root.resolve().name,
        class_names=tuple(class_names),
        templates=tuple(templates),
        root=root,
        **parts,
    )


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Class name -> pictures; every class folder must hold one at least."""
    origins: dict[str, Path] = {}
    files: dict[str, list[Path]] = {}
    for path in _subfolders(folder):
        class_name = class_name_of(path.name)
        if class_name in origins:
            raise InputError(
                f"folders {origins[class_name]} and {path} both give the class name {class_name!r}: rename one of them."
            )
        origins[class_name] = path
        files[class_name] = list_images(path)
        if not files[class_name]:
            raise InputError(f"class folder {path} holds no pictures: add some or remove the folder.")
    if not files:
        raise InputError(f"{folder} holds no class folders: make one folder of pictures per class in it.")
    return files


def _label(files: dict[str, list[Path]], class_names: Sequence[str]) -> list[Sample]:
    index = {class_name: label for label, class_name in enumerate(class_names)}
    return [Sample(path, index[class_name]) for class_name, paths in sorted(files.items()) for path in paths]
