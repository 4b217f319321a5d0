"""Files of extracted features as data sets: what ``vlmadapt features`` writes, and others of safetensors or npz."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmadapt.checks import check_labels, check_matrix
from vlmadapt.data.given import Backbone, Given
from vlmadapt.data.names import class_name_of, resolve_eval, split_named
from vlmadapt.data.splitting import carve_val, split_by_seed
from vlmadapt.data.types import SPLITS, Dataset, Parts, Row
from vlmadapt.errors import FileError, InputError, shown
from vlmadapt.files import check_format, parse_json, read_arrays, read_tensors
from vlmadapt.kinds import of_kinds

ENDINGS = (".safetensors", ".npz")
FORMAT = 1  # of what vlmadapt features writes
# Names that public files give them; the first one that is there is taken.
IMAGES, TEXT = ("image_features", "features"), ("text_features", "text")
NEGATIVE, NAMES = ("negative_text_features", "negative_text"), ("class_names", "classnames", "classes")
DRAWN = re.compile(r"train_(\d+)_features")  # of files that hold the draws of several numbers of shots
BY_NUMBER = dict(enumerate(SPLITS))
TEMPLATES = ("{}",)  # of files that do not say what their texts were


@of_kinds
def read_feature_file(path: str | Path, seed: int = 0) -> Dataset:
    """Read a ``.safetensors`` or ``.npz`` file of features; of npz, plain arrays only.

    Class text is ``text_features [C, D]``, optionally with ``negative_text_features [C, D]``, ``class_names [C]`` and
    ``logit_scale``; all of it may be missing, and labels tell the number of classes then. Rows are ``image_features
    [n, D]`` with ``labels [n]`` and optionally ``splits [n]`` (0, 1, 2 or train, val, test), or ``train_features`` with
    ``train_labels`` and so on. In safetensors, names and splits may also be JSON lists in the metadata. Data without
    splits, and without validation rows, are split as pictures are (:mod:`vlmadapt.data.splitting`). Features are
    float32 then, as they are in the file.
    Raises :class:`FileError` naming the file and the tensor that is missing or wrong.
    """
    path = Path(path)
    file = FeatureFile.open(path)
    given = file.given()
    parts, seeded = _rows(file, given, seed)
    notes = []
    if given.text is None:
        notes.append("no class text: only methods that can do without can be fitted")
    elif given.negative_text is None:
        notes.append("no negative text: where a method needs it, the mean text of the other classes is taken")
    if file.left_out():
        notes.append(f"left out: {', '.join(map(shown, file.left_out()))}")
    try:
        return Dataset(
            name=path.stem,
            class_names=given.class_names,
            templates=file.templates(),
            root=path,
            notes=tuple(notes),
            seeded=seeded,
            given=given,
            **parts,
        )
    except InputError as error:
        raise FileError(f"{path}: {error}") from error


@dataclass
class FeatureFile:
    """What is in a file, each thing taken by name and checked. What is wrong is a :class:`FileError` naming both."""

    path: Path
    arrays: dict[str, Any]  # name -> Tensor, or array of text
    metadata: dict[str, str]
    taken: set[str] = field(default_factory=set)
    wide: str = TEXT[0]  # the tensor that others are to be as wide as

    @classmethod
    def open(cls, path: Path) -> FeatureFile:
        """Raises what :func:`vlmadapt.files.read_arrays` and :func:`vlmadapt.files.read_tensors` raise."""
        if path.suffix.lower() == ".npz":
            return cls(path, {name: _as_tensor(path, name, array) for name, array in read_arrays(path).items()}, {})
        return cls(path, *read_tensors(path))

    def given(self) -> Given:
        """All but the rows and their labels."""
        origin = self.origin() if self.ours else {}
        scale = self.scale()
        told = {**origin, "logit_scale": origin.get("logit_scale") if scale is None else scale}
        if self.named(TEXT) is None:
            return Given(**told, **self._without_text())
        text = self.matrix(TEXT, None)
        return Given(
            **told,
            class_names=self.class_names(len(text)),
            width=text.shape[1],
            text=text,
            negative_text=_optional_rows(self, NEGATIVE, text),
        )

    def _without_text(self) -> dict[str, Any]:
        """Width and class names of a file that has no class text: of the first features, and by the largest label."""
        negative = self.named(NEGATIVE)
        if negative is not None:
            raise FileError(f"{self.path} has {negative} without {TEXT[0]}: give both or neither.")
        tables = _tables(self)
        self.wide = tables[0][0]
        width = self.matrix((self.wide,), None).shape[1]
        names = self.words(NAMES)
        if names is not None:
            return {"class_names": self.class_names(len(names)), "width": width}
        # No more classes than rows: a damaged label would name as many as fit no memory.
        counts = [len(self.matrix((of_rows,), width)) for of_rows, _ in tables]
        labels = [
            self.labels((of_labels,), count, sum(counts)) for (_, of_labels), count in zip(tables, counts, strict=True)
        ]
        largest = max((int(each.max()) for each in labels if len(each)), default=0)
        return {"class_names": self.class_names(largest + 1), "width": width}

    def table(self, given: Given) -> tuple[Tensor, Tensor]:
        """Features ``[n, D]`` and labels ``[n]`` of a file that holds all rows in one tensor."""
        features = self.matrix(IMAGES, given.width)
        return features, self.labels(("labels",), len(features), len(given.class_names))

    def named(self, names: Sequence[str]) -> str | None:
        """The first of ``names`` that is there."""
        return next((name for name in names if name in self.arrays), None)

    def left_out(self) -> list[str]:
        """Names of what nobody asked for."""
        return sorted(self.arrays.keys() - self.taken)

    def tensor(self, names: Sequence[str]) -> tuple[str, Tensor]:
        """(name, tensor); raises :class:`FileError` where there is none."""
        name = self.named(names)
        if name is None:
            raise FileError(
                f"{self.path} has no tensor {names[0]!r}: give features with labels (docs/data.md, Features instead of "
                "pictures)."
            )
        self.taken.add(name)
        tensor = self.arrays[name]
        if not isinstance(tensor, Tensor):
            raise FileError(f"{self.path}: {name} holds text: give numbers.")
        return name, tensor

    def matrix(self, names: Sequence[str], width: int | None) -> Tensor:
        """Float32 ``[rows, width]``, finite and without zero rows, or :class:`FileError`."""
        name, tensor = self.tensor(names)
        try:
            floats = tensor.float() if tensor.is_floating_point() else tensor
            return check_matrix(name, floats, width, self.wide).contiguous()
        except InputError as error:
            raise FileError(f"{self.path}: {error}") from error

    def labels(self, names: Sequence[str], rows: int, classes: int) -> Tensor:
        """int64 ``[rows]`` within 0 to ``classes - 1``, or :class:`FileError`."""
        name, tensor = self.tensor(names)
        try:
            return check_labels(name, tensor, rows, classes)
        except InputError as error:
            raise FileError(f"{self.path}: {error}") from error

    def words(self, names: Sequence[str]) -> list[Any] | None:
        """A list, from an array or from JSON in the metadata; None where there is none, :class:`FileError` for else."""
        name = self.named(names)
        if name is not None:
            self.taken.add(name)
            values = self.arrays[name]
            if values.ndim != 1:
                raise FileError(f"{self.path}: {name} has shape {list(values.shape)}: give a list.")
            listed: list[Any] = values.tolist()
            return listed
        name = next((name for name in names if name in self.metadata), None)
        value = None if name is None else self.json(name)
        if value is not None and not isinstance(value, list):
            raise FileError(f"{self.path}: {name} in its metadata is a {type(value).__name__}: give a list.")
        return value

    def json(self, name: str) -> Any:
        """An entry of the metadata."""
        return parse_json(self.metadata[name], self.path)

    @property
    def ours(self) -> bool:
        """Whether ``vlmadapt features`` wrote it."""
        return {"format", "encoder", "paths", "dataset"} <= self.metadata.keys()

    def class_names(self, count: int) -> tuple[str, ...]:
        """Those of the file, or numbers; :class:`FileError` for another number of them than ``count``."""
        listed = self.words(NAMES)
        if listed is None:
            return tuple(f"class {label}" for label in range(count))
        if len(listed) != count or not all(isinstance(name, str) for name in listed):
            raise FileError(
                f"{self.path}: class names are {len(listed)} entries for {count} classes: give a text a class."
            )
        return tuple(map(class_name_of, listed))

    def scale(self) -> float | None:
        """The logit scale, if a tensor gives it; :class:`FileError` for one that is none."""
        if self.named(("logit_scale",)) is None:
            return None
        name, tensor = self.tensor(("logit_scale",))
        value = float(tensor) if tensor.numel() == 1 else float("nan")
        if not 0 < value < float("inf"):
            raise FileError(f"{self.path}: {name} is {tensor.tolist()}: give one finite positive number.")
        return value

    def origin(self) -> dict[str, Any]:
        """What ``vlmadapt features`` noted of the encoder and the extraction, or :class:`FileError`."""
        check_format(self.path, self.json("format"), FORMAT, "run vlmadapt features again")
        try:
            encoder = self.json("encoder")
            found = {
                "backbone": Backbone(encoder["name"], encoder["fingerprint"]),
                "logit_scale": float(encoder["logit_scale"]),
                "views": self.json("views"),
                "precision": self.json("precision"),
            }
            if found["precision"] not in ("fp32", "bf16") or not isinstance(found["views"], int):
                raise ValueError(f"views {found['views']!r}, precision {found['precision']!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"{self.path} does not say what encoder made it ({error}): run vlmadapt features again."
            ) from error
        return found

    def templates(self) -> tuple[str, ...]:
        """The prompts of the texts, where ``vlmadapt features`` noted them; :class:`FileError` where it must have."""
        if not self.ours:
            return TEMPLATES
        try:
            return tuple(self.json("dataset")["templates"])
        except (KeyError, TypeError) as error:
            raise FileError(f"{self.path} does not say what prompts it holds: run vlmadapt features again.") from error

    def keys(self, split: str, count: int) -> list[str]:
        """Where the pictures of a split lay, or the numbers of its rows; :class:`FileError` where they do not fit."""
        if not self.ours:
            return [f"{split}/{row}" for row in range(count)]
        paths = self.json("paths")
        listed = paths.get(split) if isinstance(paths, dict) else None
        if not isinstance(listed, list) or len(listed) != count or not all(isinstance(each, str) for each in listed):
            raise FileError(f"{self.path} does not name its {count} pictures of {split}: run vlmadapt features again.")
        return listed

    def digests(self, split: str, count: int) -> list[str | None]:
        """sha256 (hex) of the pictures' bytes, where ``vlmadapt features`` noted it."""
        name = f"{split}_sha256"
        tensor = self.arrays.get(name)
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.uint8 or tensor.shape != (count, 32):
            return [None] * count
        self.taken.add(name)
        return [row.tobytes().hex() for row in tensor.numpy()]


def _as_tensor(path: Path, name: str, array: np.ndarray[Any, Any]) -> Any:
    """An array of numbers as a tensor; one of text stays."""
    if array.dtype.kind in "US":
        return array if array.dtype.kind == "U" else np.char.decode(array, "utf-8", "replace")
    try:
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape))
    except (TypeError, ValueError) as error:
        raise FileError(f"{path}: {name} has dtype {array.dtype}: give floats or integers.") from error


def _optional_rows(file: FeatureFile, names: Sequence[str], text: Tensor) -> Tensor | None:
    """Rows like those of ``text``, if there are any."""
    if file.named(names) is None:
        return None
    rows = file.matrix(names, text.shape[1])
    if len(rows) != len(text):
        raise FileError(
            f"{file.path}: {file.named(names)} has {len(rows)} rows for {len(text)} classes: give one a class."
        )
    return rows


def _rows(file: FeatureFile, given: Given, seed: int) -> tuple[Parts, bool]:
    """The three splits, and whether they were drawn here."""
    separate = _separate(file)
    if not separate:
        return _one_table(file, given, seed)
    if file.named(IMAGES) is not None:
        raise FileError(
            f"{file.path} holds both {file.named(IMAGES)} and {next(iter(separate.values()))}: give one tensor with "
            "all rows, or one for each split."
        )
    parts: Parts = {split: () for split in SPLITS}
    for split, name in separate.items():
        features = file.matrix((name,), given.width)
        labels = file.labels((_labels_of(name, split),), len(features), len(given.class_names))
        keys, digests = file.keys(split, len(features)), file.digests(split, len(features))
        parts[split] = tuple(
            Row(file.path / key, label, features, index, digest)
            for index, (key, label, digest) in enumerate(zip(keys, labels.tolist(), digests, strict=True))
        )
    return _completed(parts, file, seed)


def _separate(file: FeatureFile) -> dict[str, str]:
    """The tensor of features of each split that has one of its own."""
    found = {split: file.named(_names_of(file, split)) for split in SPLITS}
    return {split: name for split, name in found.items() if name is not None}


def _tables(file: FeatureFile) -> list[tuple[str, str]]:
    """Names of the tensors of features and of their labels: one pair for each split, or one for all rows."""
    separate = [(name, _labels_of(name, split)) for split, name in _separate(file).items()]
    return separate or [(file.named(IMAGES) or IMAGES[0], "labels")]


def _names_of(file: FeatureFile, split: str) -> tuple[str, ...]:
    """What the features of ``split`` may be called; of several draws, the largest counts."""
    if split != "train":
        return f"{split}_features", split
    shots = [int(found[1]) for found in map(DRAWN.fullmatch, file.arrays) if found]
    return "train_features", "train", *(f"train_{each}_features" for each in sorted(shots, reverse=True))


def _labels_of(features: str, split: str) -> str:
    return f"{split}_labels" if features == split else features.removesuffix("_features") + "_labels"


def _one_table(file: FeatureFile, given: Given, seed: int) -> tuple[Parts, bool]:
    features, labels = file.table(given)
    splits = file.words(("splits", "split"))
    rows = [Row(file.path / str(index), label, features, index) for index, label in enumerate(labels.tolist())]
    if splits is None:
        return split_by_seed(rows, file.path, seed), True
    if len(splits) != len(rows):
        raise FileError(f"{file.path}: splits has {len(splits)} entries for {len(rows)} rows: give one a row.")
    found = _meaning(file.path, splits)
    return _completed(
        {split: tuple(row for row, word in zip(rows, splits, strict=True) if found[word] == split) for split in SPLITS},
        file,
        seed,
    )


def _meaning(path: Path, splits: Iterable[Any]) -> dict[Any, str]:
    """Each word or number of ``splits`` with the split it means."""
    words = {word: BY_NUMBER.get(word) if isinstance(word, int) else split_named(str(word)) for word in set(splits)}
    resolved = resolve_eval({split: split for split in words.values() if split is not None})
    meant = {alias: split for split, alias in resolved.items()}
    found = {}
    for word, split in words.items():
        if split is None or meant.get(split) not in SPLITS:
            raise FileError(f"{path}: splits holds {word!r}: give 0, 1, 2 or train, val, test.")
        found[word] = meant[split]
    return found


def _completed(parts: Parts, file: FeatureFile, seed: int) -> tuple[Parts, bool]:
    """As for folders: training rows alone are split, and give their share to validation where there is none."""
    if file.ours:
        return parts, file.metadata.get("seeded") == "true"
    if parts["train"] and not parts["val"] and not parts["test"]:
        return split_by_seed(parts["train"], file.path, seed), True
    if parts["train"] and not parts["val"]:
        parts["train"], parts["val"] = carve_val(parts["train"], file.path, seed)
    return parts, False
