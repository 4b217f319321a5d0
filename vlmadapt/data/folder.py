"""Image folders: one folder per class, with or without train/val/test folders above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmadapt.data.layout import find_splits, unwrapped
from vlmadapt.data.names import FILE_KINDS, class_name_of, named, split_named
from vlmadapt.data.splitting import carve_val, split_by_seed
from vlmadapt.data.templates import DEFAULT
from vlmadapt.data.types import SPLITS, Dataset, Sample
from vlmadapt.data.walk import LeftOut, list_images, scan
from vlmadapt.errors import FileError, InputError, shown
from vlmadapt.kinds import of_kinds

MOSTLY = 0.9  # of a class's pictures lie in folders
RUNS = "runs"  # where commands write by default


@of_kinds
def read_folder(
    root: str | Path,
    seed: int = 0,
    name: str | None = None,
    templates: Sequence[str] = DEFAULT,
    also: Sequence[str] = (),
) -> Dataset:
    """Read a folder of pictures.

    Layouts: ``root/{train,val,test}/<class>/...``, with the names that :func:`vlmadapt.data.names.split_word` knows
    (without a validation folder a fifth of each training class becomes one; with ``train`` alone it is split by
    ``seed``), or ``root/<class>/...``, split by ``seed`` as :func:`vlmadapt.data.splitting.split_by_seed` says. A
    folder that holds nothing but such a folder is read as that one. Class names are folder names with underscores as
    spaces, and ``also`` names more, which may have no folder. What is left out is in the data set's ``notes``, what
    looks like another layout in its ``doubts``.
    Raises :class:`FileError` for a missing folder or one that may not be read, and :class:`InputError` for an empty
    class, fewer than two classes, two folders with one class name, or folders that are no classes.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileError(f"{shown(root)} is not a folder: give the folder that holds the class folders.")
    left_out = LeftOut()
    place = unwrapped(root, left_out)
    splits = find_splits(place, left_out)
    if not splits:
        files = class_files(place, left_out)
        _refuse_split_names(place, files)
        class_names = named(files, also)
        parts = split_by_seed(_label(files, class_names), place, seed)
    else:
        per_split = {split: class_files(path, left_out) for split, path in splits.items()}
        class_names = named((class_name for files in per_split.values() for class_name in files), also)
        parts = {split: tuple(_label(per_split.get(split, {}), class_names)) for split in SPLITS}
        if len(splits) == 1:
            left_out.notes.append(f"{shown(splits['train'])} is the only split: it is split by seed")
            parts = split_by_seed(parts["train"], place, seed)
        elif "val" not in splits:
            parts["train"], parts["val"] = carve_val(parts["train"], place, seed)
        files = per_split["train"]
    _refuse_file_kinds(place, class_names)
    _doubt_equal_insides(splits.get("train", place), files, left_out)
    return Dataset(
        name=name or root.resolve().name,
        class_names=tuple(class_names),
        templates=tuple(templates),
        root=place,
        notes=left_out.all_notes(),
        doubts=left_out.all_doubts(),
        seeded=len(splits) < 2,
        **parts,
    )


def class_files(folder: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """Class name -> pictures. Raises :class:`InputError` for an empty class folder, and two of one class name.

    A folder that holds other files only, or what this package wrote, is no class: it is left out and noted.
    """
    origins: dict[str, Path] = {}
    files: dict[str, list[Path]] = {}
    folders, loose = scan(folder, left_out)
    left_out.note_loose(folder, loose)
    for path in folders:
        inside = LeftOut()
        pictures = list_images(path, inside)
        if inside.ours and path.name == RUNS and all(picture.parent == path for picture in pictures):
            left_out.ours.append(path)
            continue
        left_out.add(inside)
        if not pictures:
            _check_without_pictures(path, inside, left_out)
            continue
        class_name = class_name_of(path.name)
        if class_name in origins:
            raise InputError(
                f"folders {shown(origins[class_name])} and {shown(path)} both give the class name {class_name!r}: "
                "rename one of them."
            )
        origins[class_name] = path
        files[class_name] = pictures
    if not files:
        raise InputError(f"{shown(folder)} holds no class folders: make one folder of pictures per class in it.")
    return files


def _check_without_pictures(path: Path, inside: LeftOut, left_out: LeftOut) -> None:
    if inside.unread:
        endings = ", ".join(sorted({each.suffix.lower() for each in inside.unread}))
        raise InputError(
            f"class folder {shown(path)} holds only pictures of formats that are not read ({endings}): convert them to "
            "JPEG or PNG, or remove the folder."
        )
    if inside.ours:
        return
    if not any(each.is_file() for each in path.rglob("*") if not each.name.startswith(".")):
        raise InputError(f"class folder {shown(path)} holds no pictures: add some or remove the folder.")
    left_out.notes.append(f"folder {shown(path)} holds no pictures and is left out")


def _refuse_split_names(place: Path, files: Mapping[str, list[Path]]) -> None:
    """Folders called train and test that hold pictures, not class folders, are no classes."""
    if all(split_named(class_name) for class_name in files) and len(files) > 1:
        raise InputError(
            f"{shown(place)} holds {', '.join(sorted(files))} without class folders in them: make one folder per class "
            "in each, or list the pictures with their labels in a .csv."
        )


def _refuse_file_kinds(place: Path, class_names: Sequence[str]) -> None:
    if all(class_name.casefold().replace(" ", "_") in FILE_KINDS for class_name in class_names):
        raise InputError(
            f"the folders of {shown(place)} ({', '.join(class_names)}) name kinds of files, not classes: make one "
            "folder of pictures per class, or list the pictures with their labels in a .csv."
        )


def _doubt_equal_insides(place: Path, files: Mapping[str, list[Path]], left_out: LeftOut) -> None:
    """Domains or splits below which the classes lie look like classes that all hold the same folders."""
    insides: list[set[str]] = []
    for depth in (1, 2):  # amazon/images/bike, dslr/images/bike: one folder more between domains and classes
        insides = [_folders_at(place, pictures, depth) for pictures in files.values()]
        if not all(len(inside) == 1 and next(iter(inside)).casefold() in FILE_KINDS for inside in insides):
            break
    if not all(insides):
        return
    names = [name for inside in insides for name in inside]
    shared = {name for name in names if names.count(name) > 1}
    if len(insides) > 1 and len(shared) > 1 and all(inside & shared for inside in insides):
        some, classes = ", ".join(sorted(shared)[:3]), ", ".join(list(files)[:4])
        left_out.doubts.append(
            f"the classes of {shown(place)} ({classes}) all hold the same folders ({some}): if those are the classes, "
            "choose a domain (--domain) or name the folders above them train, val and test"
        )


def _folders_at(place: Path, pictures: list[Path], depth: int) -> set[str]:
    """Names of the folders so far below the folder of a class, none where its pictures do not mostly lie in such."""
    level = len(place.parts) + depth
    deeper = [picture.parts[level] for picture in pictures if len(picture.parts) > level + 1]
    return set(deeper) if len(deeper) >= MOSTLY * len(pictures) else set()


def _label(files: Mapping[str, list[Path]], class_names: Sequence[str]) -> list[Sample]:
    index = {class_name: label for label, class_name in enumerate(class_names)}
    return [Sample(path, index[class_name]) for class_name, paths in sorted(files.items()) for path in paths]
