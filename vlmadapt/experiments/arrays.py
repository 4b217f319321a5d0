"""Data that are in memory: features or pictures in a list or array, with labels, as a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from vlmadapt.adapters.images import is_pictures, listed
from vlmadapt.backbones import class_text_features
from vlmadapt.backbones.base import Encoder
from vlmadapt.checks import check_labels, check_matrix, numbered, tensor_of, words_of
from vlmadapt.data.given import Backbone, Given
from vlmadapt.data.names import class_name_of, named
from vlmadapt.data.splitting import split_by_seed
from vlmadapt.data.templates import DEFAULT
from vlmadapt.data.types import Dataset, Held, Parts, Row, Sample
from vlmadapt.errors import FileError, InputError, shown

if TYPE_CHECKING:
    from vlmadapt.classifier import Run
    from vlmadapt.experiments.options import Options

NAME = "in-memory"
Use = Literal["train", "split", "test"]


def is_held(data: object) -> bool:
    """Whether ``data`` are features or pictures themselves, rather than where they are."""
    return data is not None and not isinstance(data, (str, Path, Dataset, os.PathLike))


def held_dataset(
    data: Any,
    labels: Any,
    options: Options,
    use: Use,
    class_names: Sequence[str] | None = None,
    text_features: Any = None,
    run: Run | None = None,
) -> Dataset:
    """``data`` and ``labels`` in memory as a data set.

    data: features ``[n, D]``, n paths or PIL pictures, or 8-bit pixels ``[n, H, W, 3]``. labels: n names of classes, or
        numbers from 0. use: all is for training, all for testing, or split by ``split_seed`` as a folder is.
        class_names: C names for numbers, or the order of the classes. text_features: ``[C, D]``, of the classes in that
        order; the text tower of ``options.encoder`` makes them where that is an encoder. run: of the classifier that is
        tested, whose classes these are.
    Raises :class:`InputError` for labels that are missing, of another number, or no classes.
    """
    pictures = _pictures(data)
    numbers = None if pictures is not None else _numbers(data)
    if labels is None:
        raise InputError(f"labels is missing, and data is a {type(data).__name__}: give one a picture or row.")
    rows = None if numbers is None else check_matrix("data", numbers).float()
    count = len(rows) if rows is not None else len(pictures or ())
    names, classes = _labelled(labels, count, class_names if run is None else run.class_names, run is not None)
    templates = tuple(getattr(options, "templates", None) or DEFAULT)
    given, root = None, Path(NAME).resolve()
    samples: list[Sample] = []
    if rows is not None:
        given = _given(rows, names, templates, options, text_features, run)
        samples = [Row(root / f"row {i}", label, rows, i) for i, label in enumerate(classes)]
    elif text_features is not None:
        raise InputError("text_features is given, but data are pictures, whose encoder makes it: leave it out.")
    else:
        root, samples = _samples(pictures or [], classes)
    parts: Parts = {"train": (), "val": (), "test": ()}
    if use == "split":
        parts = split_by_seed(samples, root, options.split_seed)
    else:
        parts[use] = tuple(samples)
    return Dataset(NAME, names, templates, root=root, given=given, seeded=use == "split", **parts)


def _numbers(data: Any) -> Any:
    numbers = tensor_of(data)
    if not isinstance(numbers, Tensor):
        raise InputError(
            f"data is a {type(data).__name__}: give a folder, a file, the name of a built-in set, or features or "
            "pictures with their labels."
        )
    return numbers.detach().cpu() if numbers.is_floating_point() else numbers


def _pictures(data: Any) -> list[Any] | None:
    """Paths and PIL pictures, where ``data`` are such, or pixels."""
    if is_pictures(data):
        items = listed(data)
        other = next((i for i, item in enumerate(items) if not isinstance(item, (str, Path, Image.Image))), None)
        if other is not None:
            if not isinstance(data, (list, tuple, np.ndarray)) or isinstance(items[other], Tensor):
                return None
            raise InputError(f"data[{other}] is a {type(items[other]).__name__}: give paths, PIL pictures or features.")
        if not items:
            raise InputError("data is empty: give at least one picture or row of features.")
        return items
    pixels = np.asarray(data) if isinstance(data, (np.ndarray, Tensor)) and len(data.shape) == 4 else None
    if pixels is None:
        return None
    if pixels.dtype != np.uint8 or pixels.shape[-1] != 3:
        raise InputError(
            f"data is {pixels.dtype} {list(pixels.shape)}: give features [n, D], or pictures as uint8 [n, H, W, 3]."
        )
    return [Image.fromarray(each) for each in pixels]


def _labelled(
    labels: Any, count: int, class_names: Sequence[str] | None, known: bool
) -> tuple[tuple[str, ...], list[int]]:
    """The names of the classes and a number for each label."""
    names = None if class_names is None else tuple(map(class_name_of, map(str, class_names)))
    words = words_of(labels)
    if words is not None:
        if len(words) != count:
            raise InputError(
                f"labels has {len(words)} elements: give one label for each of the {count} pictures or rows."
            )
        plain = [class_name_of(word) for word in words]
        names = tuple(named(plain, ())) if names is None else names
        return names, numbered("labels", plain, names).tolist()
    given = tensor_of(labels)
    most = len(names) if names is not None else 1
    if names is None and isinstance(given, Tensor) and given.numel() and not given.is_floating_point():
        most = int(given.max()) + 1
        if most > max(count, 2):
            raise InputError(
                f"labels holds {most - 1} with {count} pictures or rows: number the classes from 0, or give names."
            )
    numbers = check_labels("labels", given, count, most).tolist()
    return names or tuple(f"class {number}" for number in range(most)), numbers


def _given(
    rows: Tensor, names: tuple[str, ...], templates: Sequence[str], options: Options, text: Any, run: Run | None
) -> Given:
    width = rows.shape[1]
    if run is not None:
        return Given(names, width, backbone=Backbone(run.encoder.name, run.encoder.fingerprint))
    encoder = options.encoder
    if text is not None:
        text = check_matrix("text_features", text, width, "data").detach().cpu().float()
        if len(text) != len(names):
            raise InputError(f"text_features has {len(text)} rows for {len(names)} classes: give one a class.")
    if not isinstance(encoder, Encoder):
        return Given(names, width, text)
    if encoder.width != width:
        raise InputError(
            f"data is {width} wide but {encoder.name} is {encoder.width} wide: give features of that encoder."
        )
    if text is None and encoder.has_text:
        text = class_text_features(encoder, names, templates).cpu()
    return Given(
        names, width, text, logit_scale=encoder.logit_scale, backbone=Backbone(encoder.name, encoder.fingerprint)
    )


def _samples(pictures: Sequence[Any], numbers: Sequence[int]) -> tuple[Path, list[Sample]]:
    """The folder above all files, and a sample each; opened pictures are named by their place.

    Raises :class:`FileError` naming a file that is not there.
    """
    for i, each in enumerate(pictures):
        if not isinstance(each, Image.Image) and not Path(each).expanduser().is_file():
            raise FileError(f"data[{i}] is {shown(each)!r}, where there is no file: give paths of pictures.")
    files = [Path(each).expanduser().absolute() for each in pictures if not isinstance(each, Image.Image)]
    root = Path(os.path.commonpath([file.parent for file in files])) if files else Path(NAME).resolve()
    return root, [
        Held(root / f"picture {i}", label, each)
        if isinstance(each, Image.Image)
        else Sample(Path(each).expanduser().absolute(), label)
        for i, (each, label) in enumerate(zip(pictures, numbers, strict=True))
    ]
