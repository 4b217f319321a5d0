"""What makes two pictures the same: equal bytes, or equal pixels; and a cheap sketch of those that look alike. Ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vlmadapt.kinds import of_kinds
from vlmadapt.pictures.read import contents, decode, size_of

SKETCH_SIDE = 8
FLATTEST = 4.0  # greys: a picture of less contrast has no sketch, its differences would be noise
MOST_BITS, MOST_COLOUR = 3, 6.0  # by how much sketches of pictures that look alike differ


@dataclass(frozen=True)
class Identity:
    """A picture by its content. Two are the same picture when either part is equal.

    file: sha256 (hex) of the file's bytes. pixels: ``WxH:`` and the sha256 (hex) of the 8-bit RGB that
    :func:`vlmadapt.pictures.read` gives, so that a lossless copy in another format, or without metadata, is the same.
    """

    file: str
    pixels: str

    @property
    def keys(self) -> tuple[str, str]:
        """Both parts, to be looked up in one set."""
        return self.file, self.pixels


def identity_of(data: bytes, image: Image.Image) -> Identity:
    """The identity of a file's bytes ``data`` that decode to the RGB picture ``image``."""
    pixels = hashlib.sha256(image.tobytes()).hexdigest()
    return Identity(hashlib.sha256(data).hexdigest(), f"{image.width}x{image.height}:{pixels}")


@of_kinds
def identify(path: str | Path) -> Identity:
    """The identity of a file; raises what :func:`vlmadapt.pictures.read` raises."""
    data = contents(path)
    return identity_of(data, decode(data, path))


class Known:
    """Pictures by content, each with a name, to look others up in."""

    def __init__(self, pictures: Iterable[tuple[Identity, str]]) -> None:
        self._names: dict[str, str] = {}
        for identity, name in pictures:
            for key in identity.keys:
                self._names.setdefault(key, name)
        self._sizes = {_sides(key.partition(":")[0].split("x")) for key in self._names if ":" in key}

    def name_by(self, identity: Identity) -> str | None:
        """The name of the picture of this ``identity``; None for another."""
        return next((self._names[key] for key in identity.keys if key in self._names), None)

    def name_of(self, path: Path) -> str | None:
        """The name of the picture that the file ``path`` is the same as; None for another.

        It is decoded only where one of its size is known. Raises :class:`FileError` naming it when it cannot be read.
        """
        data = contents(path)
        found = self._names.get(hashlib.sha256(data).hexdigest())
        if found is not None or _sides(map(str, size_of(data, path))) not in self._sizes:
            return found
        return self._names.get(identity_of(data, decode(data, path)).pixels)


def _sides(size: Iterable[str]) -> frozenset[str]:
    """Without an order: EXIF may turn a picture."""
    return frozenset(size)


class Sketch(NamedTuple):
    """64 bits that say where a small grey copy grows brighter to the right, and the mean colour."""

    bits: int
    colour: tuple[float, float, float]

    def resembles(self, other: Sketch) -> bool:
        """Whether both are probably of one picture, resized or compressed anew: a hint, no proof."""
        near = all(abs(a - b) <= MOST_COLOUR for a, b in zip(self.colour, other.colour, strict=True))
        return near and (self.bits ^ other.bits).bit_count() <= MOST_BITS

    def bands(self) -> list[tuple[int, int]]:
        """(number, 16 bits) four times: sketches that differ in at most three bits share one at least."""
        return [(band, self.bits >> (16 * band) & 0xFFFF) for band in range(4)]


def sketch_of(image: Image.Image) -> Sketch | None:
    """The sketch of an RGB picture (a difference hash); None for one without contrast."""
    small = image.resize((SKETCH_SIDE + 1, SKETCH_SIDE), Image.Resampling.BOX)
    colours = np.asarray(small, dtype=np.float64)
    grey = colours.mean(axis=-1)
    if float(grey.std()) < FLATTEST:
        return None
    bits = int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")
    red, green, blue = colours.mean(axis=(0, 1)).tolist()
    return Sketch(bits, (red, green, blue))
