"""The split files published with CoOp (arXiv 2109.01134): ``split_zhou_*.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmadapt.data.listing import picture_path, require_files
from vlmadapt.data.names import class_name_of
from vlmadapt.data.splitting import carve_val
from vlmadapt.data.templates import DEFAULT
from vlmadapt.data.types import SPLITS, Dataset, Parts, Sample
from vlmadapt.errors import FileError, InputError
from vlmadapt.files import read_json
from vlmadapt.kinds import of_kinds


@of_kinds
def read_coop_split(
    split_file: str | Path,
    images: str | Path | None = None,
    name: str | None = None,
    templates: Sequence[str] = DEFAULT,
    seed: int = 0,
    check_files: bool = True,
) -> Dataset:
    """Read ``{"train": [[path, label, class name], ...], "val": [...], "test": [...]}``.

    Paths count from ``images`` (default: the folder of the split file). Labels may have gaps and classes may be
    absent from ``train``: the labels of all splits together are renumbered 0..C-1 in ascending order. An empty
    ``val`` is carved out of ``train`` by ``seed``. Raises :class:`FileError` for a malformed file or missing
    pictures, :class:`InputError` where one label has two class names, or two labels have one.
    """
    split_file = Path(split_file)
    root = Path(images) if images is not None else split_file.parent
    content = read_json(split_file)
    if not isinstance(content, dict) or not {"train", "test"} <= content.keys():
        raise FileError(f"{split_file} is not a CoOp split: it must be an object with train, val and test lists.")

    names: dict[int, str] = {}
    rows: dict[str, list[tuple[Path, int]]] = {}
    for split in SPLITS:
        entries = content.get(split, [])
        if not isinstance(entries, list):
            raise FileError(f"{split_file} is not a CoOp split: {split} must be a list.")
        rows[split] = []
        for position, entry in enumerate(entries):
            path, label, class_name = _entry(split_file, split, position, entry)
            if names.setdefault(label, class_name) != class_name:
                raise InputError(
                    f"{split_file} gives label {label} the names {names[label]!r} and {class_name!r}: keep one of them."
                )
            rows[split].append((picture_path(split_file, root, path), label))

    _refuse_shared_names(split_file, names)
    index = {label: position for position, label in enumerate(sorted(names))}
    parts: Parts = {split: tuple(Sample(path, index[label]) for path, label in rows[split]) for split in SPLITS}
    if not parts["val"]:
        parts["train"], parts["val"] = carve_val(parts["train"], root, seed)
    if check_files:
        require_files(split_file, [sample for part in parts.values() for sample in part])
    return Dataset(
        name=name or split_file.stem.removeprefix("split_zhou_"),
        class_names=tuple(names[label] for label in index),
        templates=tuple(templates),
        root=root,
        **parts,
    )


def _refuse_shared_names(split_file: Path, names: dict[int, str]) -> None:
    """Two cranes in a list of classes cannot be told apart by name, nor by prompt."""
    first: dict[str, int] = {}
    for label, class_name in sorted(names.items()):
        other = first.setdefault(class_name, label)
        if other != label:
            raise InputError(
                f"{split_file} gives labels {other} and {label} the name {class_name!r}: rename one of them, "
                "or give both one label."
            )


def _entry(split_file: Path, split: str, position: int, entry: Any) -> tuple[str, int, str]:
    match entry:
        case [str() as path, int() as label, str() as class_name] if path.strip() and label is not True and label >= 0:
            return path, label, class_name_of(class_name)
    raise FileError(
        f"{split_file} has {entry!r} at {split}[{position}]: an entry must be [path, label from 0, class name]."
    )
