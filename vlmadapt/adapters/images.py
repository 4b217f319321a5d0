"""Pictures instead of features: encoded on the way in, with the encoder the adapter was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vlmadapt.errors import InputError

BATCH = 64


class ImageEncoder(Protocol):
    """The part of an encoder that adapters use."""

    name: str
    fingerprint: str
    width: int

    def transform(self, image: Any) -> Tensor: ...

    def encode_images(self, pixels: Tensor) -> Tensor: ...


def is_pictures(value: object) -> bool:
    """Whether ``value`` is a picture, a path, or a sequence of them, rather than features."""
    return isinstance(value, (str, Path)) or _is_pil(value) or isinstance(value, (list, tuple))


def encode_pictures(name: str, value: object, encoder: ImageEncoder | None) -> Tensor:
    """Paths or PIL images to features ``[n, D]``, one view each, in the given order.

    Raises :class:`InputError` without an encoder, :class:`FileError` naming a picture that cannot be read.
    """
    items: Sequence[object] = value if isinstance(value, (list, tuple)) else [value]
    if encoder is None:
        raise InputError(f"{name} holds pictures but the adapter has no encoder: pass encoder= or give features.")
    if not items:
        raise InputError(f"{name} is empty: give at least one picture.")
    parts = []
    for start in range(0, len(items), BATCH):
        pixels = [encoder.transform(_opened(name, item)) for item in items[start : start + BATCH]]
        parts.append(encoder.encode_images(torch.stack(pixels)))
    return torch.cat(parts)


def _is_pil(value: object) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image)


def _opened(name: str, item: object) -> Any:
    if isinstance(item, (str, Path)):
        # The one place where adapters look sideways: how a file becomes RGB must not exist twice.
        from vlmadapt.data import open_image

        return open_image(item)
    if not _is_pil(item):
        raise InputError(f"{name} holds a {type(item).__name__}: give paths, PIL images or a feature tensor.")
    return item.convert("RGB")  # type: ignore[attr-defined]
