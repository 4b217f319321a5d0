"""Every check of what enters an adapter: one sentence naming the argument, what was got, and the fix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.checks import check_matrix
from vlmadapt.errors import InputError, shape_of

LARGEST_SCALE = 1e6  # of encoders: 100 or so; beyond, logits and their squares leave float32
STORED = (4.5, 4.7)  # log(100) is 4.605


def normalize(matrix: Tensor) -> Tensor:
    """Rows at unit length; rows that :func:`check_matrix` let through have a length to divide by."""
    return matrix / torch.linalg.vector_norm(matrix, dim=-1, keepdim=True)


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
