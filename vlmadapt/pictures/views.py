"""RGB pictures to pixel tensors with Pillow alone: square padding, resizing and seeded random crops."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vlmadapt.pictures.read import read

CROP_AREA = (0.5, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10


def pad_to_square(image: Image.Image, fill: str = "white") -> Image.Image:
    side = max(image.size)
    if image.size == (side, side):
        return image
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> float32 [3, H, W] with values 0 to 255."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1).contiguous()


def random_view(
    image: Image.Image,
    size: tuple[int, int],
    generator: torch.Generator,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """A random crop of 50 to 100 % of the area, resized to ``size`` (height, width), mirrored half of the time.

    These are the views that Tip-Adapter averages (arXiv 2111.03930); all randomness comes from ``generator``.
    """
    left, top, width, height = _random_box(image.width, image.height, generator)
    box = (left, top, left + width, top + height)
    view = image.resize((size[1], size[0]), resample, box=box, reducing_gap=None)
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
    return normalize_pixels(pad_to_square(read(image)).resize((side, side), Image.Resampling.BICUBIC))
