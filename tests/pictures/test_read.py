import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from vlmadapt.errors import FileError, InputError
from vlmadapt.pictures import SUFFIXES, read
from vlmadapt.pictures.read import pillow_silent


def colour(path: Path, at: tuple[int, int]) -> Any:
    """The three numbers of an RGB pixel; for the type checker, getpixel may also return one or none."""
    return read(path).getpixel(at)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg").size == (2, 4)


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (3, 3), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read(tmp_path / "clear.png").getpixel((1, 1)) == (255, 255, 255)
    Image.new("RGBA", (3, 3), (255, 0, 0, 128)).save(tmp_path / "half.png")
    red, green, _ = colour(tmp_path / "half.png", (1, 1))
    assert red == 255 and 125 <= green <= 129
    Image.new("LA", (3, 3), (0, 0)).save(tmp_path / "grey.png")
    assert read(tmp_path / "grey.png").getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=0)
    opened = read(tmp_path / "p.png")
    assert opened.mode == "RGB"
    assert [opened.getpixel((column, 0)) for column in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red, green, blue = colour(tmp_path / "c.jpg", (4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_16_bit_grey_keeps_its_range(tmp_path):
    Image.fromarray(np.array([[0, 257 * 200, 65535]], dtype=np.uint16)).save(tmp_path / "wide.png")
    opened = read(tmp_path / "wide.png")
    assert [opened.getpixel((column, 0)) for column in range(3)] == [(0, 0, 0), (200, 200, 200), (255, 255, 255)]


def test_float_grey_and_nan(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "f.tif")
    assert read(tmp_path / "f.tif").getpixel((1, 0)) == (128, 128, 128)
    Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)).save(tmp_path / "n.tif")
    with pytest.raises(FileError, match=r"n\.tif.*NaN"):
        read(tmp_path / "n.tif")


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_first_frame_of_an_animation(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], duration=100)
    red, _, blue = colour(tmp_path / f"a.{kind}", (4, 4))
    assert red > 240 and blue < 20


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif"])
def test_truncated_picture_is_named(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{kind}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileError, match=rf"cut\.{kind} is not a readable picture"):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is an empty file"), (b"not a picture at all", "format is not recognised")]
)
def test_other_content_is_named(tmp_path, content, words):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(FileError, match=rf"x\.png.*{words}"):
        read(tmp_path / "x.png")


def test_missing_picture_is_named(tmp_path):
    with pytest.raises(FileError, match=r"absent\.png: No such file"):
        read(tmp_path / "absent.png")


def test_too_large_picture_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(FileError, match=r"bomb\.png.*exceeds limit"):
        read(tmp_path / "bomb.png")


def in_memory(mode):
    """One pixel of half-covered red or grey in a mode that only exists in memory."""
    plain = {"La": ("LA", (100, 128)), "RGBa": ("RGBA", (200, 0, 0, 128)), "PA": ("LA", (100, 128))}
    name, value = plain[mode]
    image = Image.new(name, (2, 2), value)
    return image, image.convert(mode) if mode != "PA" else _with_palette(image)


def _with_palette(image):
    greys = Image.new("PA", image.size)
    greys.putpalette([100, 100, 100])
    greys.putalpha(image.getchannel("A"))
    return greys


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA"])
def test_modes_without_a_file(mode):
    plain, image = in_memory(mode)
    assert image.mode == mode
    seen, wanted = (np.asarray(read(each)).astype(int) for each in (image, plain))
    assert np.abs(seen - wanted).max() <= 2 and (wanted.max(-1) > wanted.min(-1)).all() == (mode == "RGBa")


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "CMYK", "RGBX"])
def test_other_colour_modes_keep_the_colour(mode):
    seen = np.asarray(read(Image.new("RGB", (2, 2), (200, 60, 20)).convert(mode))).astype(int)
    assert np.abs(seen - (200, 60, 20)).max() <= 3


def test_palette_with_alpha_of_its_own():
    image = Image.new("P", (1, 1))
    image.putpalette([255, 0, 0, 0], "RGBA")
    assert read(image).getpixel((0, 0)) == (255, 255, 255)


def test_an_opened_animation_is_read_at_the_frame_it_stands_at(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    image = Image.open(tmp_path / "a.gif")
    image.seek(1)
    assert read(image).getpixel((4, 4)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tif", "bmp", "ppm"])
def test_opened_picture_whose_file_is_cut_is_named_every_time(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{kind}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    image = Image.open(path)
    for _ in range(2):
        with pytest.raises(FileError, match=rf"cut\.{kind} is not a readable picture \(.*truncated"):
            read(image)
    with pytest.raises(InputError, match=r"^pictures\[3\] is not a readable picture \(.*truncated"):
        read(Image.open(io.BytesIO(path.read_bytes())), "pictures[3]")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_of_an_opened_picture_is_an_error(value):
    image = Image.fromarray(np.array([[0.0, value]], dtype=np.float32))
    with pytest.raises(InputError, match=r"^picture is not a readable picture \(it holds NaN or infinite"):
        read(image)


def test_closed_picture_is_an_error(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(FileError, match=r"a\.png is not a readable picture"):
        read(image)


def test_other_types_are_refused():
    with pytest.raises(InputError, match=r"^features\[1\] is a ndarray: give a path or a PIL picture\.$"):
        read(np.zeros((4, 4, 3), dtype=np.uint8), "features[1]")  # type: ignore[arg-type]


def test_plain_rgb_is_passed_on_without_a_copy():
    image = Image.new("RGB", (4, 4))
    assert read(image) is image


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_only_named_formats_are_opened(tmp_path, monkeypatch):
    stub = tmp_path / "gs"
    stub.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "picture.jpg").write_bytes(EPS)
    with pytest.raises(FileError, match=r"picture\.jpg is not .* not recognised as one of AVIF, BMP, .*, WEBP\)"):
        read(tmp_path / "picture.jpg")
    assert not (tmp_path / "ran").exists()
    # The stub works: Pillow left to itself starts it.
    with pytest.raises(OSError), Image.open(tmp_path / "picture.jpg") as image:
        image.load()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["tga", "pcx", "ico", "sgi"])
def test_a_format_that_is_not_named_is_refused(tmp_path, kind):
    Image.new("RGB", (16, 16), "red").save(tmp_path / f"a.{kind}")
    (tmp_path / f"a.{kind}").rename(tmp_path / "a.png")
    with pytest.raises(FileError, match=r"a\.png.*not recognised"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".avif"}))
def test_every_ending_that_folders_are_searched_for_is_read(tmp_path, suffix):
    Image.new("L", (16, 16), 77).save(tmp_path / f"a{suffix}")
    assert read(tmp_path / f"a{suffix}").size == (16, 16)


def test_warnings_of_others_outlive_readers_that_overlap() -> None:
    """The second leaves after the first: with ``warnings.catch_warnings`` nobody would be warned again."""
    before = list(warnings.filters)
    first, second = pillow_silent(), pillow_silent()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("the cache cannot be written", stacklevel=1)
    assert len(caught) == 1
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before
