"""Checks of features and labels, wherever they come from: an argument or a file. One sentence names what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmadapt.errors import InputError, check_finite, shape_of

SMALLEST_NORM = 1e-12


def tensor_of(value: object) -> object:
    """Numbers that are given as a list or an array (NumPy, pandas, anything with ``__array__``) as a tensor of the same
    type; numbers of a list are float32 where one has a point. All else is returned as it is."""
    if isinstance(value, Tensor) or not (isinstance(value, (list, tuple)) or hasattr(value, "__array__")):
        return value
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        same = all(isinstance(each, Tensor) and each.shape == value[0].shape for each in value)
        return torch.stack(list(value)) if same else value
    try:
        array = np.ascontiguousarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        return value
    if array.dtype.kind not in "fiub":
        return value
    if isinstance(value, (list, tuple)) and array.dtype == np.float64:
        array = array.astype(np.float32)
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable))
    except TypeError:  # a type that torch has not
        return value


def words_of(value: object) -> list[str] | None:
    """The words of a list or array that holds nothing else; None for anything else."""
    if isinstance(value, (str, Tensor)):
        return None
    listed: Any = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(listed, (list, tuple)) or not listed or not all(isinstance(word, str) for word in listed):
        return None
    return list(listed)


def numbered(name: str, words: Sequence[str], class_names: Sequence[str]) -> Tensor:
    """int64 ``[n]``: the place of each of ``words`` among ``class_names``. Raises :class:`InputError` for another."""
    place = {known: number for number, known in enumerate(class_names)}
    other = next((word for word in words if word not in place), None)
    if other is not None:
        some = ", ".join(list(class_names)[:5]) + (", ..." if len(class_names) > 5 else "")
        raise InputError(f"{name} holds {other!r}, which is no class: use one of {some}.")
    return torch.tensor([place[word] for word in words], dtype=torch.int64)


def check_matrix(name: str, value: object, width: int | None = None, other: str = "text_features") -> Tensor:
    """A finite floating-point ``[rows, width]`` tensor without zero rows, or an :class:`InputError`.

    other: what has that width. Lists and arrays are taken as well (:func:`tensor_of`).
    """
    value = tensor_of(value)
    if not isinstance(value, Tensor):
        raise InputError(
            f"{name} is a {type(value).__name__}: give a floating-point tensor or array of numbers [rows, width]."
        )
    if not value.is_floating_point():
        raise InputError(f"{name} is {shape_of(value)}: give floating-point features.")
    if value.dim() != 2 or value.shape[1] == 0:
        raise InputError(f"{name} is {shape_of(value)}: give a matrix [rows, width].")
    if width is not None and value.shape[1] != width:
        raise InputError(
            f"{name} is {value.shape[1]} wide but {other} is {width} wide: encode both with the same encoder."
        )
    check_finite(name, value, "check the pictures and the precision they were encoded in")
    length = torch.linalg.vector_norm(value.detach().float(), dim=-1)
    if bool(torch.isinf(length).any()):
        row = int(torch.nonzero(torch.isinf(length))[0])
        raise InputError(f"{name} row {row} is longer than float32 can tell: divide all rows by a number, say 1e20.")
    zero = length < SMALLEST_NORM
    if bool(zero.any()):
        row = int(torch.nonzero(zero)[0])
        raise InputError(f"{name} row {row} has norm zero and no direction: leave that row out or encode it again.")
    return value


def check_labels(name: str, value: object, rows: int, num_classes: int) -> Tensor:
    """An integer tensor ``[rows]`` within ``[0, num_classes)``, as int64 on the CPU, or an :class:`InputError`.

    Lists and arrays are taken as well.
    """
    value = tensor_of(value)
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}: give an integer tensor [{rows}].")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise InputError(f"{name} is {shape_of(value)}: give integer class numbers.")
    if value.dim() != 1 or len(value) != rows:
        raise InputError(f"{name} is {shape_of(value)}: give one label for each of the {rows} feature rows.")
    value = value.detach().to("cpu", torch.int64)  # torch takes the number of classes for one of the labels' own type
    outside = (value < 0) | (value >= num_classes)
    if bool(outside.any()):
        row = int(torch.nonzero(outside)[0])
        raise InputError(
            f"{name} holds {int(value[row])} at index {row} but there are {num_classes} classes: "
            f"use 0 to {num_classes - 1}."
        )
    return value
