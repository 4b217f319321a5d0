"""RGB pictures to pixel tensors with Pillow alone: square padding, resizing and seeded random crops."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vlmadapt.pictures.read import read

CROP_AREA = (0.5, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10
LARGEST_SQUARE = 2**24  # pixels that are held at once; of larger squares, slabs
LARGEST_SLAB = 2**22
MIDDLE = 8


def pad_to_square(image: Image.Image) -> Image.Image:
    """An RGB picture in the middle of a white square."""
    side = max(image.size)
    return image if image.size == (side, side) else _on_white(image, (side, side))


def _on_white(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, "white")
    canvas.paste(image, _corner(image, size))
    return canvas


def _corner(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] - image.width) // 2, (size[1] - image.height) // 2


def resize_square(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    box: tuple[int, int, int, int] | None = None,
) -> Image.Image:
    """``box`` (default: all) of :func:`pad_to_square` of an RGB picture, resized to ``size`` (width, height).

    The square of a long picture is never held: Pillow resizes rows, then columns, each by itself, so that rows can be
    padded and resized some at a time, and the columns padded afterwards, with the same bytes as a result.
    """
    side = max(image.size)
    left, top, right, bottom = box or (0, 0, side, side)
    if side * side <= LARGEST_SQUARE or image.width == image.height:
        return pad_to_square(image).resize(size, resample, box=(left, top, right, bottom))
    rows = max(1, LARGEST_SLAB // side)
    narrow = Image.new("RGB", (size[0], image.height))
    for row in range(0, image.height, rows):
        slab = image.crop((0, row, image.width, min(row + rows, image.height)))
        slab = _on_white(slab, (side, slab.height))
        narrow.paste(slab.resize((size[0], slab.height), resample, box=(left, 0, right, slab.height)), (0, row))
    columns = _on_white(narrow, (size[0], side))
    return columns.resize(size, resample, box=(0, top, size[0], bottom))


def middle_of_long(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """What a centre crop of ``size`` (height, width) sees of ``image`` once its short side is resized to that.

    Only a picture so long that resizing the whole of it would take more than ``LARGEST_SQUARE`` pixels is cut, to
    ``MIDDLE`` times its short side; any other is returned as it is.
    """
    short, edge = min(image.size), max(size)
    if max(image.size) * edge * edge <= LARGEST_SQUARE * short:
        return image
    kept = (min(image.width, MIDDLE * short), min(image.height, MIDDLE * short))
    left, top = (image.width - kept[0]) // 2, (image.height - kept[1]) // 2
    return image.crop((left, top, left + kept[0], top + kept[1]))


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> float32 [3, H, W] with values 0 to 255."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1).contiguous()


def random_view(
    image: Image.Image,
    size: tuple[int, int],
    generator: torch.Generator,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    square: bool = False,
) -> Image.Image:
    """A random crop of 50 to 100 % of the area, resized to ``size`` (height, width), mirrored half of the time.

    These are the views that Tip-Adapter averages (arXiv 2111.03930); all randomness comes from ``generator``.
    ``square``: of :func:`pad_to_square` of the picture.
    """
    side = max(image.size)
    left, top, width, height = _random_box(*((side, side) if square else image.size), generator)
    box = (left, top, left + width, top + height)
    resize = partial(resize_square, image) if square else image.resize
    view = resize((size[1], size[0]), resample, box=box)
    return ImageOps.mirror(view) if float(torch.rand((), generator=generator)) < 0.5 else view


def _random_box(width: int, height: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    for _ in range(CROP_TRIES):
        draw = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = width * height * (CROP_AREA[0] + draw[0] * (CROP_AREA[1] - CROP_AREA[0]))
        low, high = math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])
        ratio = math.exp(low + draw[1] * (high - low))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(draw[2] * (width - crop_width + 1))
            top = int(draw[3] * (height - crop_height + 1))
            return left, top, crop_width, crop_height
    return 0, 0, width, height


def normalize_pixels(image: Image.Image) -> Tensor:
    """The embedded image tower's scale: ``(x - 127) / 128``, float32 [3, H, W]."""
    return (to_tensor(image) - 127) / 128


def to_pixels(image: Image.Image, side: int = 224) -> Tensor:
    """The embedded image tower's input: a white square, resized (bicubic), scaled, float32 [3, side, side]."""
    return normalize_pixels(resize_square(read(image), (side, side)))
