"""The arguments of the signed-cosine graph, checked."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.ops import library
from vlmadapt.ops.checks import FLOATS, check_matrix, check_same

Diagonal = Literal["keep", "negate", "zero"]


def check_graph(targets: Tensor, sources: Tensor, diagonal: str) -> None:
    """Raise :class:`InputError` unless both sets of rows and the diagonal fit together."""
    library.require(torch.device("cpu"))
    check_matrix("targets", targets)
    check_matrix("sources", sources)
    check_same("sources", sources, "targets", targets)
    if diagonal not in ("keep", "negate", "zero"):
        raise InputError(f"diagonal is {diagonal!r}: choose 'keep', 'negate' or 'zero'.")
    if diagonal != "keep" and len(targets) != len(sources):
        raise InputError(
            f"diagonal is {diagonal!r} but targets has {len(targets)} rows and sources {len(sources)}: row i of both "
            "must be the same class, or keep the diagonal."
        )


def check_scale(name: str, scale: Tensor | None, rows: Tensor) -> None:
    """Raise :class:`InputError` unless ``scale`` is None or one number a row."""
    if scale is not None and (scale.shape != (len(rows),) or scale.dtype not in FLOATS or scale.device != rows.device):
        raise InputError(
            f"{name} is {shape_of(scale)} on {scale.device} but must be one floating-point number a row, [{len(rows)}] "
            f"on {rows.device}."
        )
