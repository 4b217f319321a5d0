"""Which test pictures were answered rightly, a bit each, as text in results: what differences between methods are
paired by."""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor


def pack(right: Tensor) -> str:
    """``right [n]``, bool, in base64: eight pictures a byte, the first one highest, zeros at the end."""
    return base64.b64encode(np.packbits(right.cpu().numpy()).tobytes()).decode("ascii")


def unpack(text: str, pictures: int) -> Tensor:
    """The ``[pictures]`` bool that :func:`pack` was given. Raises :class:`ValueError` for a text of another number."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"right is no base64 ({error}): run again what wrote it.") from error
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if len(data) != -(-pictures // 8) or bits[pictures:].any():
        raise ValueError(f"right is of {len(data)} bytes, but there are {pictures} pictures: run again what wrote it.")
    return torch.from_numpy(bits[:pictures].astype(bool))
