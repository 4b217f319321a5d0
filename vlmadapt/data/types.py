"""What a data set is: pictures with labels in three splits, class names and prompt templates."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vlmadapt.data.given import Given
from vlmadapt.data.names import class_name_of, is_utf8
from vlmadapt.errors import InputError, shown
from vlmadapt.pictures import Identity, identify, read
from vlmadapt.pictures.identity import Known, identity_of
from vlmadapt.pictures.read import digest_of

SPLITS = ("train", "val", "test")
# Split -> tuple of samples. Of any type for the checker: it is passed on as keyword arguments, among others.
Parts = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One picture: where it lies and the index of its class."""

    path: Path
    label: int

    @property
    def read_from(self) -> Path | Image.Image:
        """What is read: a path, or a picture that is open already."""
        return self.path

    def digest(self) -> str:
        """sha256 (hex) of the picture's bytes. Raises :class:`FileError` naming a file that cannot be read."""
        return digest_of(self.path)

    def identity(self) -> Identity:
        """The picture by its content. Raises :class:`FileError` naming a file that cannot be read."""
        return identify(self.path)

    def name_in(self, known: Known) -> str | None:
        """The name that the picture has among ``known`` ones; raises as :meth:`identity` does."""
        return known.name_of(self.path)


@dataclass(frozen=True)
class Held(Sample):
    """A picture that somebody has opened; ``path`` is a name for it, and nothing is there."""

    image: Image.Image = field(repr=False, compare=False)

    @property
    def read_from(self) -> Image.Image:
        return self.image

    def digest(self) -> str:
        """sha256 (hex) of its pixels, as 8-bit RGB."""
        return self.identity().pixels.rpartition(":")[2]

    def identity(self) -> Identity:
        """By its pixels alone. Raises :class:`InputError` for a picture that cannot be read."""
        picture = read(self.image, str(self.path))
        pixels = identity_of(b"", picture).pixels
        return Identity(pixels, pixels)

    def name_in(self, known: Known) -> str | None:
        return known.name_by(self.identity())


@dataclass(frozen=True)
class Row(Sample):
    """A row of a file of features in place of a picture; ``path`` goes on from that of the file, and nothing is there.

    features: ``[n, D]``, of which this is row ``index``. picture: sha256 (hex) of the picture's bytes, where known.
    """

    features: Tensor = field(repr=False, compare=False)
    index: int
    picture: str | None = None

    @property
    def feature(self) -> Tensor:
        """``[D]``."""
        return self.features[self.index]

    def digest(self) -> str:
        """sha256 (hex) of the row's bytes."""
        return hashlib.sha256(self.feature.numpy().tobytes()).hexdigest()

    def identity(self) -> Identity:
        """By the picture's bytes, where they are known, and by the row's."""
        own = self.digest()
        return Identity(self.picture or own, own)

    def name_in(self, known: Known) -> str | None:
        return known.name_by(self.identity())


@dataclass(frozen=True)
class Dataset:
    """Three splits of labelled pictures, or of rows of features.

    ``labels`` index ``class_names`` and are 0..C-1 without gaps; a class may be absent from a split.
    ``templates`` are prompts with one ``{}``. ``root`` is the folder that relative paths count from. ``notes`` and
    ``doubts`` are sentences of the reader: what it left out, and what is probably not meant so. ``seeded`` says that
    the data come without splits: these three are ours, drawn by a seed. ``given``: of features in place of pictures,
    whose samples are :class:`Row`; ``root`` is their file then. ``descriptions`` are prompts of classes, by name, in
    place of the templates; a class without any keeps these.
    Raises :class:`InputError` for fewer than two classes, two of one name, a label out of range, a template without
    ``{}``, neither training nor test pictures, or a name or path that is not UTF-8.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    root: Path
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    seeded: bool = False
    given: Given | None = None
    descriptions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise InputError(
                f"data set {self.name!r} has {len(self.class_names)} class(es) {list(self.class_names)}: "
                "a classifier needs at least two."
            )
        for index, class_name in enumerate(self.class_names):
            if not class_name.strip():
                raise InputError(f"data set {self.name!r} has an empty name for class {index}: give it a name.")
            if not is_utf8(class_name) or any(unicodedata.category(each) == "Cc" for each in class_name):
                what = "holds a control character" if is_utf8(class_name) else "is not UTF-8 text"
                raise InputError(
                    f"data set {self.name!r} has the name '{shown(class_name)}' for class {index}, which {what}: "
                    "rename it."
                )
        if len(set(self.class_names)) < len(self.class_names):
            twice = next(name for name, count in Counter(self.class_names).items() if count > 1)
            raise InputError(
                f"data set {self.name!r} has two classes called {twice!r}: rename one, or merge them into one label."
            )
        for template in self.templates:
            if template.count("{}") != 1:
                raise InputError(f"templates hold {template!r}: each must contain {{}} once, for the class name.")
        if not self.templates:
            raise InputError(f"data set {self.name!r} has no prompt templates: give at least one with {{}} in it.")
        if not self.train and not self.test:
            raise InputError(f"data set {self.name!r} has neither training nor test pictures: add some to a split.")
        if not is_utf8(os.fspath(self.root)):
            raise InputError(f"the name of folder {shown(self.root)} is not UTF-8 text: rename it.")
        self._refuse_other_bytes()
        for split in SPLITS:
            for sample in self.split(split):
                if not 0 <= sample.label < len(self.class_names):
                    raise InputError(
                        f"{sample.path} has label {sample.label}, but data set {self.name!r} has labels 0 to "
                        f"{len(self.class_names) - 1}: correct the label."
                    )

    def _refuse_other_bytes(self) -> None:
        """File names are written into results and JSON, which are UTF-8."""
        every = (sample.path for split in SPLITS for sample in self.split(split))
        other = [path for path in every if not is_utf8(os.fspath(path)) or "\0" in os.fspath(path)]
        if other:
            more = f" ({len(other)} such names)" if len(other) > 1 else ""
            raise InputError(f"the file name {shown(other[0])} is not UTF-8 text{more}: rename it, or remove the file.")

    def split(self, name: str) -> tuple[Sample, ...]:
        """``train``, ``val`` or ``test`` by name; :class:`InputError` for another."""
        if name not in SPLITS:
            raise InputError(f"split is {name!r}: it must be one of {', '.join(SPLITS)}.")
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def counts(self, split: str) -> list[int]:
        """Pictures per class of one split, in the order of ``class_names``."""
        counted = Counter(sample.label for sample in self.split(split))
        return [counted[label] for label in range(len(self.class_names))]

    def describe(self) -> str:
        """How many classes and pictures, and a line for each note."""
        counts = (
            f"{self.name}: {len(self.class_names)} classes, {len(self.train)} training, {len(self.val)} "
            f"validation and {len(self.test)} test pictures"
        )
        return "\n".join([counts, *(f"  {note}" for note in self.notes)])

    def with_classes(self, class_names: Sequence[str], leave_out: bool = False) -> Dataset | None:
        """The same pictures with labels that index ``class_names``, matched by name; None where one is not among them,
        unless pictures of other classes are to be left out.

        Names are compared as :func:`vlmadapt.data.names.class_name_of` writes them: 0.1.0 left those of tables as they
        were.
        """
        place = {class_name_of(name): label for label, name in enumerate(class_names)}
        mine = [class_name_of(name) for name in self.class_names]
        if not (leave_out or place.keys() >= set(mine)) or len(place) < len(class_names) or len(set(mine)) < len(mine):
            return None
        parts: Parts = {
            split: tuple(
                replace(sample, label=place[mine[sample.label]])
                for sample in self.split(split)
                if mine[sample.label] in place
            )
            for split in SPLITS
        }
        return replace(self, class_names=tuple(class_names), **parts)

    def only(self, class_names: Sequence[str]) -> Dataset:
        """The pictures of these classes alone, labels in their order.

        Raises :class:`InputError` for fewer than two, or classes without pictures to train or test on.
        """
        place = {self.class_names.index(name): label for label, name in enumerate(class_names)}
        parts: Parts = {
            split: tuple(
                replace(sample, label=place[sample.label]) for sample in self.split(split) if sample.label in place
            )
            for split in SPLITS
        }
        given = None if self.given is None else self.given.only(class_names)
        return replace(self, class_names=tuple(class_names), given=given, notes=(), doubts=(), **parts)

    def prompts(self) -> list[list[str]]:
        """What is written of each class: its descriptions, else the templates, with its name where they hold ``{}``."""
        return [
            [text.replace("{}", name) for text in self.descriptions.get(name, self.templates)]
            for name in self.class_names
        ]

    def key(self, sample: Sample) -> str:
        """The path of ``sample`` from ``root``: the same on every machine."""
        return relative_key(sample.path, self.root)

    @property
    def split_hash(self) -> str:
        """sha256 (hex) over relative paths and labels of the three splits; see :func:`hash_splits`."""
        return hash_splits(self.root, {split: self.split(split) for split in SPLITS})


def relative_key(path: Path, root: Path) -> str:
    """``path`` from ``root`` with forward slashes and composed unicode, so that file systems agree on it."""
    text, base = os.fspath(path), os.fspath(root) + os.sep
    # The prefix test spares relpath's many steps: large sets ask for a million keys.
    inner = text[len(base) :] if text.startswith(base) else os.path.relpath(text, root)
    return unicodedata.normalize("NFC", inner.replace(os.sep, "/"))


def hash_splits(root: Path, splits: dict[str, Iterable[Sample]]) -> str:
    """sha256 (hex) over the sorted lines ``split <tab> label <tab> relative path``.

    Neither the order of the samples nor the place of ``root`` on the disk changes it.
    """
    lines = sorted(
        f"{split}\t{sample.label}\t{relative_key(sample.path, root)}\n"
        for split, samples in splits.items()
        for sample in samples
    )
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
