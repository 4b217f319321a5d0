"""Pictures instead of features: encoded on the way in, with the encoder the adapter was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmadapt.errors import InputError
from vlmadapt.modes import usual
from vlmadapt.pictures import encode, read


class ImageEncoder(Protocol):
    """The part of an encoder that adapters use."""

    name: str
    fingerprint: str
    width: int

    def transform(self, image: Any) -> Tensor: ...

    def encode_images(self, pixels: Tensor) -> Tensor: ...


def listed(value: Any) -> list[Any]:
    """One picture or several, as a list."""
    if isinstance(value, (str, Path, Image.Image)):
        return [value]
    return list(value.tolist() if isinstance(value, np.ndarray) else value)


def is_pictures(value: object) -> bool:
    """Whether ``value`` is a picture, a path, or a sequence of them, rather than features."""
    if isinstance(value, (list, tuple)):
        return not value or not isinstance(value[0], (bool, int, float, list, tuple, np.ndarray, np.generic, Tensor))
    return isinstance(value, (str, Path, Image.Image)) or (isinstance(value, np.ndarray) and value.dtype.kind in "UO")


@usual()
def encode_pictures(name: str, value: object, encoder: ImageEncoder | None) -> Tensor:
    """Paths or PIL images to features ``[n, D]``, one view each, in the given order.

    Raises :class:`InputError` without an encoder and for an item of another type, and what
    :func:`vlmadapt.pictures.read` raises for a picture that cannot be read.
    """
    items = listed(value)
    if encoder is None:
        raise InputError(f"{name} holds pictures but the adapter has no encoder: pass encoder= or give features.")
    if not hasattr(encoder, "transform") or not hasattr(encoder, "encode_images"):
        raise InputError(
            f"encoder is a {type(encoder).__name__}: give what load_encoder or vlmadapt.from_model returns."
        )
    if not items:
        raise InputError(f"{name} is empty: give at least one picture.")
    for item in items:
        if not isinstance(item, (str, Path, Image.Image)):
            raise InputError(f"{name} holds a {type(item).__name__}: give paths, PIL images or a feature tensor.")
    transform = encoder.transform

    def load(numbered: tuple[int, Any]) -> Tensor:
        position, item = numbered
        return transform(read(item, f"{name}[{position}]"))

    return torch.cat(list(encode(enumerate(items), load, encoder.encode_images)))
