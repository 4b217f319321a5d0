from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmadapt.data import open_image
from vlmadapt.errors import FileError


def colour_at(image: Image.Image, place: tuple[int, int]) -> Any:
    """Red, green and blue of an RGB picture."""
    return image.getpixel(place)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    image.save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (2, 4)


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (3, 3), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((1, 1)) == (255, 255, 255)
    Image.new("RGBA", (3, 3), (255, 0, 0, 128)).save(tmp_path / "half.png")
    red, green, _ = colour_at(open_image(tmp_path / "half.png"), (1, 1))
    assert red == 255 and 125 <= green <= 129
    Image.new("LA", (3, 3), (0, 0)).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=0)
    opened = open_image(tmp_path / "p.png")
    assert opened.mode == "RGB"
    assert [opened.getpixel((column, 0)) for column in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red, green, blue = colour_at(open_image(tmp_path / "c.jpg"), (4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_16_bit_grey_keeps_its_range(tmp_path):
    Image.fromarray(np.array([[0, 257 * 200, 65535]], dtype=np.uint16)).save(tmp_path / "wide.png")
    opened = open_image(tmp_path / "wide.png")
    assert [opened.getpixel((column, 0)) for column in range(3)] == [(0, 0, 0), (200, 200, 200), (255, 255, 255)]


def test_float_grey_and_nan(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "f.tif")
    assert open_image(tmp_path / "f.tif").getpixel((1, 0)) == (128, 128, 128)
    Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)).save(tmp_path / "n.tif")
    with pytest.raises(FileError, match=r"n\.tif.*NaN"):
        open_image(tmp_path / "n.tif")


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_first_frame_of_an_animation(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], duration=100)
    red, _, blue = colour_at(open_image(tmp_path / f"a.{kind}"), (4, 4))
    assert red > 240 and blue < 20


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif"])
def test_truncated_picture_is_named(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{kind}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileError, match=rf"cut\.{kind} is not a readable picture"):
        open_image(path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is an empty file"), (b"not a picture at all", "format is not recognised")]
)
def test_other_content_is_named(tmp_path, content, words):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(FileError, match=rf"x\.png.*{words}"):
        open_image(tmp_path / "x.png")


def test_missing_picture_is_named(tmp_path):
    with pytest.raises(FileError, match=r"absent\.png: No such file"):
        open_image(tmp_path / "absent.png")


def test_too_large_picture_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(FileError, match=r"bomb\.png.*exceeds limit"):
        open_image(tmp_path / "bomb.png")
