"""What can be measured in a picture of easy-VQA: one shape of a plain colour on a plain background."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vlmadapt.errors import FileError
from vlmadapt.pictures import read

COLOURS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
SHAPES = ("circle", "rectangle", "triangle")
SIZES = ("small", "medium", "large")
SMALL, LARGE = 16, 26  # longer side in pixels below and from which a shape is called small and large (ours)
COVER = 40  # side of the patch that hides a shape; the largest shape is 34 pixels wide


@dataclass(frozen=True)
class Facts:
    """``box`` is (left, top, right, bottom) in pixels, right and bottom exclusive."""

    colour: str
    shape: str
    box: tuple[int, int, int, int]
    side: int = 64

    @property
    def size(self) -> str:
        left, top, right, bottom = self.box
        longer = max(right - left, bottom - top)
        return SIZES[(longer >= SMALL) + (longer >= LARGE)]

    @property
    def place(self) -> str:
        """``"top left"`` to ``"bottom right"``: the third of the picture that holds the middle of the shape."""
        left, top, right, bottom = self.box
        row = ("top", "middle", "bottom")[min(2, 3 * (top + bottom) // (2 * self.side))]
        column = ("left", "center", "right")[min(2, 3 * (left + right) // (2 * self.side))]
        return f"{row} {column}"

    def mirrored(self) -> Facts:
        """The facts of the picture flipped left to right."""
        left, top, right, bottom = self.box
        return Facts(self.colour, self.shape, (self.side - right, top, self.side - left, bottom), self.side)


def measure(picture: np.ndarray, name: str | Path) -> Facts:
    """Facts of ``picture`` uint8 ``[64, 64, 3]``; :class:`FileError` with its ``name`` when it holds no shape we know.

    The colour is the commonest one that is not the background's; the shape follows from how much of its box is filled:
    a rectangle all of it, a circle pi / 4, a triangle half (ours; the tests compare it with published answers).
    """
    corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]].astype(np.int16)
    background = np.median(corners, axis=0)
    difference = np.abs(picture.astype(np.int16) - background).max(-1)
    rows, columns = np.nonzero(difference > 12)
    if len(rows) == 0:
        raise FileError(f"{name} shows no shape: reinstall easy-vqa.")
    colours, counts = np.unique(picture[rows, columns], axis=0, return_counts=True)
    commonest = colours[counts.argmax()].astype(np.int16)
    colour = min(COLOURS, key=lambda each: int(np.abs(commonest - np.array(COLOURS[each])).sum()))
    # How much of each pixel the shape covers, for its edges are smoothed; a row's sum is its width in that row.
    change = commonest - background
    covered = np.clip((picture - background) @ change / (change @ change), 0, 1)
    filled = covered.sum() / (covered.sum(0).max() * covered.sum(1).max())
    shape = "rectangle" if filled > 0.89 else "circle" if filled > 0.7 else "triangle"
    rows, columns = np.nonzero(covered > 0.5)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return Facts(colour, shape, box, picture.shape[0])


def cover(picture: np.ndarray, facts: Facts, key: str) -> np.ndarray:
    """A copy of ``picture`` with its shape below a chequered patch of ``COVER`` pixels, so that none of it is seen.

    ``key`` moves the patch by up to three pixels, the same for the same key (ours)."""
    shift = hashlib.sha256(key.encode()).digest()
    left = (facts.box[0] + facts.box[2] - COVER) // 2 + shift[0] % 7 - 3
    top = (facts.box[1] + facts.box[3] - COVER) // 2 + shift[1] % 7 - 3
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    inside = (rows >= top) & (rows < top + COVER) & (columns >= left) & (columns < left + COVER)
    chequered = np.where(((rows // 2 + columns // 2) % 2)[..., None] == 0, 90, 190).astype(np.uint8)
    return np.where(inside[..., None], chequered, picture).astype(np.uint8)


def read_picture(path: Path) -> np.ndarray:
    """uint8 ``[64, 64, 3]``; raises :class:`FileError` naming the file."""
    return np.asarray(read(path))


def write_picture(picture: np.ndarray, path: Path) -> None:
    from vlmadapt.atomic import atomic_path

    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
