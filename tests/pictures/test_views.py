"""Long pictures: the same bytes as a padded square gives, without the square."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vlmadapt.errors import InputError
from vlmadapt.pictures import read, views
from vlmadapt.pictures.views import middle_of_long, pad_to_square, random_view, resize_square, to_pixels


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


SIZES = [(700, 30), (30, 700), (701, 1), (1, 701), (333, 332), (500, 500), (226, 5)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("box", [None, (13, 200, 220, 222), (0, 0, 5, 224)], ids=str)
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
def test_slabs_give_the_bytes_of_the_square(monkeypatch, size, box, resample):
    image, whole = noise(*size), (0, 0, max(size), max(size))
    wanted = pad_to_square(image).resize((64, 48), resample, box=box or whole)
    monkeypatch.setattr(views, "LARGEST_SQUARE", 100)
    monkeypatch.setattr(views, "LARGEST_SLAB", 3000)  # a few rows
    assert resize_square(image, (64, 48), resample, box).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("size", [(900, 40), (40, 900)])
def test_views_of_slabs_are_those_of_the_square(monkeypatch, size):
    image = noise(*size)
    wanted = [random_view(pad_to_square(image), (32, 32), torch.Generator().manual_seed(s)) for s in range(5)]
    monkeypatch.setattr(views, "LARGEST_SQUARE", 100)
    found = [random_view(image, (32, 32), torch.Generator().manual_seed(s), square=True) for s in range(5)]
    assert [each.tobytes() for each in found] == [each.tobytes() for each in wanted]


def test_the_square_is_white_around_the_picture():
    pixels = to_pixels(Image.new("RGB", (5000, 400), "black"), 100)
    assert float(pixels[:, :40].min()) == 1.0 and float(pixels[:, 50].max()) < 0


PEAK = """
import resource
from PIL import Image
from vlmadapt.pictures.views import to_pixels
Image.new("RGB", (1000, 20)).save({first!r})
to_pixels({first!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
to_pixels({path!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("size", [(30_000, 20), (20, 30_000), (100_000, 3)])
def test_a_long_picture_takes_bounded_memory(tmp_path, size):
    path = tmp_path / "long.png"
    Image.new("RGB", size, "red").save(path)
    code = PEAK.format(first=str(tmp_path / "first.png"), path=str(path))
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(printed) < 256  # MiB; its square has 2.5 GiB and more


def test_a_side_without_sense_is_refused(tmp_path):
    with pytest.raises(InputError, match="it is 100001 x 1 pixels, a side above 100000"):
        read(Image.new("RGB", (100_001, 1)))


@pytest.mark.parametrize("size", [(30_000, 20), (20, 30_000), (30_000, 32)])
def test_the_middle_of_a_long_picture_is_what_a_centre_crop_sees(monkeypatch, size):
    monkeypatch.setattr(views, "LARGEST_SQUARE", 2**20)
    image = noise(*size)
    kept = middle_of_long(image, (64, 64))
    short = min(size)
    assert max(kept.size) == 8 * short and min(kept.size) == short

    def centre(picture: Image.Image) -> np.ndarray:
        scale = 64 / min(picture.size)
        wide = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
        left, top = (wide.width - 64) // 2, (wide.height - 64) // 2
        return np.asarray(wide.crop((left, top, left + 64, top + 64)), dtype=float)

    difference = np.abs(centre(kept) - centre(image))
    assert difference.max() <= 1


@pytest.mark.parametrize("size", [(4000, 3000), (10_000, 1000), (224, 224)])
def test_ordinary_pictures_are_not_cut(size):
    image = Image.new("RGB", size)
    assert middle_of_long(image, (224, 224)) is image
