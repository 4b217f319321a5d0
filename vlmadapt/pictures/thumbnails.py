"""Pictures made small: for reports, and beside a classifier, so that its evidence outlives the pictures' folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from vlmadapt.atomic import remove_file
from vlmadapt.errors import FileError
from vlmadapt.files import read_tensors, write_tensors
from vlmadapt.pictures.read import contents, decode, read

SIDE = 96  # pixels of the longer side
QUALITY = 72
FILE = "thumbnails.safetensors"
MOST = 1024  # pictures kept in a file
MOST_BYTES = 32 * 1024  # of one; ours have a tenth


def thumbnail(picture: str | Path | Image.Image) -> bytes:
    """``picture`` as a JPEG whose longer side has at most ``SIDE`` pixels.

    Raises :class:`FileError` naming a file that cannot be read.
    """
    image = read(picture) if isinstance(picture, Image.Image) else decode(contents(picture), picture, least=2 * SIDE)
    scale = min(1.0, SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


def thumbnail_or_none(path: Path) -> bytes | None:
    """:func:`thumbnail` of a file, None where it is not there or cannot be read."""
    try:
        return thumbnail(path)
    except FileError:
        return None


class Named(Protocol):
    """A picture of a class."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def label(self) -> int: ...


def keep_thumbnails(folder: Path, pictures: Sequence[Named], older: Thumbnails | None = None) -> None:
    """Write thumbnails of ``pictures`` into ``folder``, of at most ``MOST``, some of each class.

    One that cannot be read is taken from ``older``, else left out; the file is removed where none is left.
    """
    found: dict[str, torch.Tensor] = {}
    for each in _some_of_each(pictures):
        small = thumbnail_or_none(each.path) or (None if older is None else older.of(each.name))
        if small is not None:
            found[_key(each.name)] = torch.frombuffer(bytearray(small), dtype=torch.uint8)
    if found:
        write_tensors(folder / FILE, found)
    else:
        remove_file(folder / FILE)


def _some_of_each(pictures: Sequence[Named]) -> list[Named]:
    """The first of each class, then the second of each, up to ``MOST``."""
    turn: dict[int, int] = {}
    places = []
    for number, each in enumerate(pictures):
        turn[each.label] = turn.get(each.label, -1) + 1
        places.append((turn[each.label], number))
    return [pictures[number] for _, number in sorted(places)[:MOST]]


def _key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Thumbnails:
    """Those kept in ``folder``, by the name of the picture; of a folder without any, none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def of(self, name: str) -> bytes | None:
        """The JPEG; None where none was kept. Raises :class:`FileError` for a damaged file."""
        kept = self._all.get(_key(name))
        return None if kept is None or len(kept) > MOST_BYTES else kept.numpy().tobytes()

    @cached_property
    def _all(self) -> Mapping[str, torch.Tensor]:
        return read_tensors(self._path)[0] if self._path.is_file() else {}
