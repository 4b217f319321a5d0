"""Every check of what enters an adapter: one sentence naming the argument, what was got, and the fix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.errors import InputError, check_finite, shape_of

SMALLEST_NORM = 1e-12
LARGEST_SCALE = 1e6  # of encoders: 100 or so; beyond, logits and their squares leave float32
STORED = (4.5, 4.7)  # log(100) is 4.605


def check_matrix(name: str, value: object, width: int | None = None) -> Tensor:
    """A finite floating-point ``[rows, width]`` tensor without zero rows, or an :class:`InputError`."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}: give a floating-point tensor [rows, width].")
    if not value.is_floating_point():
        raise InputError(f"{name} is {shape_of(value)}: give floating-point features.")
    if value.dim() != 2 or value.shape[1] == 0:
        raise InputError(f"{name} is {shape_of(value)}: give a matrix [rows, width].")
    if width is not None and value.shape[1] != width:
        raise InputError(
            f"{name} is {value.shape[1]} wide but text_features is {width} wide: encode both with the same encoder."
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


def normalize(matrix: Tensor) -> Tensor:
    """Rows at unit length; rows that :func:`check_matrix` let through have a length to divide by."""
    return matrix / torch.linalg.vector_norm(matrix, dim=-1, keepdim=True)


def check_labels(name: str, value: object, rows: int, num_classes: int) -> Tensor:
    """An integer tensor ``[rows]`` within ``[0, num_classes)``, as int64 on the CPU, or an :class:`InputError`."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}: give an integer tensor [{rows}].")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise InputError(f"{name} is {shape_of(value)}: give integer class numbers.")
    if value.dim() != 1 or len(value) != rows:
        raise InputError(f"{name} is {shape_of(value)}: give one label for each of the {rows} feature rows.")
    outside = (value < 0) | (value >= num_classes)
    if bool(outside.any()):
        row = int(torch.nonzero(outside)[0])
        raise InputError(
            f"{name} holds {int(value[row])} at index {row} but there are {num_classes} classes: "
            f"use 0 to {num_classes - 1}."
        )
    return value.detach().to("cpu", torch.int64)


def check_text_features(value: object) -> Tensor:
    """Class text features ``[C, D]``, normalised. Raises :class:`InputError` for fewer than two classes."""
    matrix = check_matrix("text_features", value)
    if len(matrix) < 2:
        raise InputError(f"text_features is {shape_of(matrix)}: a classifier needs at least two classes.")
    return normalize(matrix.detach())


def check_logit_scale(value: object) -> float:
    """The scale as a number. Raises :class:`InputError` unless it is positive and at most ``LARGEST_SCALE``; warns of
    what looks like the logarithm that CLIP stores."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise InputError(f"logit_scale is {value!r}: give the encoder's logit scale, a finite positive number.")
    if value > LARGEST_SCALE:
        raise InputError(f"logit_scale is {value!r}: give the encoder's logit scale, at most {LARGEST_SCALE:g}.")
    if STORED[0] <= value <= STORED[1]:
        warnings.warn(
            f"logit_scale is {value:g}, which looks like the logarithm that CLIP stores: give its exponential, "
            f"{math.exp(value):g}.",
            stacklevel=3,
        )
    return float(value)


def check_class_names(value: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """One name a class. Raises :class:`InputError` for another number of names."""
    if value is None:
        return tuple(f"class {number}" for number in range(num_classes))
    if isinstance(value, str) or len(value) != num_classes:
        raise InputError(
            f"class_names has {len(value)} entries for {num_classes} rows of text_features: give one a class."
        )
    return tuple(str(name) for name in value)


def canonical_order(features: Tensor) -> Tensor:
    """Rows sorted by their bytes: int64 ``[n]``.

    Which order the pictures came in, or how the classes are numbered, then changes neither the batches nor the
    order of a sum: a fit depends on the set of samples only.
    """
    rows = features.detach().cpu().contiguous().view(torch.uint8).numpy()
    return torch.tensor(sorted(range(len(rows)), key=lambda row: rows[row].tobytes()), dtype=torch.int64)
