"""The class of each test picture, answered or true, as text in results: confusion follows from them."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import torch
from torch import Tensor

NARROW = 2**16  # classes whose numbers have two bytes; else four


def pack_classes(labels: Tensor, classes: int) -> str:
    """``labels [n]`` of so many ``classes``: little-endian numbers, compressed, in base64."""
    numbers = labels.cpu().numpy().astype(_kind(classes))
    return base64.b64encode(zlib.compress(numbers.tobytes(), 9)).decode("ascii")


def unpack_classes(text: str, pictures: int, classes: int) -> Tensor:
    """The int64 ``[pictures]`` that :func:`pack_classes` was given. Raises :class:`ValueError` for other text."""
    kind = _kind(classes)
    size = pictures * kind.itemsize
    try:
        opened = zlib.decompressobj()
        data = opened.decompress(base64.b64decode(text, validate=True), size + 1)  # and no more of a damaged text
    except (ValueError, zlib.error) as error:
        raise ValueError(f"predicted holds no classes ({error}): run again what wrote it.") from error
    if len(data) != size or not opened.eof or opened.unused_data:
        raise ValueError(f"predicted is not of {pictures} pictures: run again what wrote it.")
    labels = torch.from_numpy(np.frombuffer(data, dtype=kind).astype(np.int64))
    if pictures and int(labels.max()) >= classes:
        raise ValueError(f"predicted has class {int(labels.max())} of {classes}: run again what wrote it.")
    return labels


def _kind(classes: int) -> np.dtype:
    return np.dtype("<u2" if classes <= NARROW else "<u4")
