"""Checks of features and labels, wherever they come from: an argument or a file. One sentence names what is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.errors import InputError, check_finite, shape_of

SMALLEST_NORM = 1e-12


def check_matrix(name: str, value: object, width: int | None = None, other: str = "text_features") -> Tensor:
    """A finite floating-point ``[rows, width]`` tensor without zero rows, or an :class:`InputError`.

    other: what has that width.
    """
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}: give a floating-point tensor [rows, width].")
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
    """An integer tensor ``[rows]`` within ``[0, num_classes)``, as int64 on the CPU, or an :class:`InputError`."""
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
