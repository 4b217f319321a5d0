"""What makes two pictures the same, which files are pictures, and that one place opens them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import vlmadapt
from tests.pictures.samples import KINDS
from vlmadapt.errors import FileError
from vlmadapt.pictures import FORMATS, Kind, identify, kind_of, read
from vlmadapt.pictures.identity import Known, Sketch, sketch_of
from vlmadapt.pictures.kinds import OTHER_ENDINGS


def noise(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def test_lossless_copies_are_the_same(tmp_path):
    image, info = noise(0), PngInfo()
    info.add_text("Comment", "another file")
    first = identify(save(tmp_path / "a.png", image))
    copies: dict[str, dict[str, Any]] = {
        "b.bmp": {},
        "c.tif": {"compression": "tiff_lzw"},
        "d.webp": {"lossless": True},
        "e.png": {"compress_level": 0},
        "f.png": {"pnginfo": info},
        "g.ppm": {},
    }
    for name, options in copies.items():
        other = identify(save(tmp_path / name, image, **options))
        assert other.file != first.file and other.pixels == first.pixels, name


@pytest.mark.parametrize("change", ["pixel", "shape", "loss"])
def test_other_pixels_are_not(tmp_path, change):
    image = noise(0)
    first = identify(save(tmp_path / "a.png", image))
    pixels = np.array(image)
    if change == "pixel":
        pixels[3, 3, 1] ^= 1
    if change == "shape":
        pixels = pixels.reshape(24, 16, 3)  # the same bytes
    other = Image.fromarray(pixels)
    path = save(tmp_path / ("b.jpg" if change == "loss" else "b.png"), other)
    assert set(identify(path).keys).isdisjoint(first.keys)


def test_pictures_are_known_again_whatever_turned_them(tmp_path):
    image = noise(0)
    known = Known(
        [(identify(save(tmp_path / "a.png", image)), "a"), (identify(save(tmp_path / "b.png", noise(1))), "b")]
    )
    exif = image.getexif()
    exif[0x0112] = 6
    turned = save(tmp_path / "t.tif", image.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert known.name_of(turned) == "a" and known.name_of(tmp_path / "b.png") == "b"
    assert known.name_of(save(tmp_path / "c.png", noise(2))) is None
    assert known.name_of(save(tmp_path / "d.png", noise(2, (9, 9)))) is None
    (tmp_path / "e.png").write_bytes(b"none")
    with pytest.raises(FileError, match=r"e\.png is not a readable picture"):
        known.name_of(tmp_path / "e.png")


def test_a_picture_of_another_size_is_not_decoded(tmp_path, monkeypatch):
    known = Known([(identify(save(tmp_path / "a.png", noise(0))), "a")])
    path = save(tmp_path / "b.png", noise(1, (5, 5)))
    monkeypatch.setattr("vlmadapt.pictures.identity.decode", None)
    assert known.name_of(path) is None


def test_sketches_of_pictures_that_look_alike(tmp_path):
    smooth = noise(3, (8, 6)).resize((256, 192), Image.Resampling.BICUBIC)
    sketch = sketch_of(smooth)
    assert sketch is not None
    for copy in (smooth.resize((100, 75)), read(save(tmp_path / "a.jpg", smooth, quality=50))):
        other = sketch_of(copy)
        assert other is not None and sketch.resembles(other)
        assert set(sketch.bands()) & set(other.bands())
    for seed in range(4, 24):
        other = sketch_of(noise(seed, (8, 6)).resize((256, 192), Image.Resampling.BICUBIC))
        assert other is not None and not sketch.resembles(other)
    assert sketch_of(Image.new("RGB", (50, 50), "red")) is None
    assert not Sketch(7, (0, 0, 0)).resembles(Sketch(7, (0, 0, 9)))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_known_by_its_ending_and_without(tmp_path, name):
    path = KINDS[name].write(tmp_path)
    assert kind_of(path) is Kind.PICTURE
    assert kind_of(path.rename(tmp_path / "without")) is Kind.PICTURE
    assert kind_of((tmp_path / "without").rename(tmp_path / "x.unknown")) is Kind.PICTURE
    assert kind_of((tmp_path / "x.unknown").rename(tmp_path / "x.png~")) is Kind.OTHER


@pytest.mark.parametrize("ending", sorted(OTHER_ENDINGS))
def test_other_pictures_are_told_by_their_ending(tmp_path, ending):
    (tmp_path / f"a{ending.upper()}").write_bytes(b"II*\0" + bytes(30))
    assert kind_of(tmp_path / f"a{ending.upper()}") is (
        Kind.PICTURE if ending in (".heic", ".heif", ".hif") else Kind.OTHER
    )


@pytest.mark.parametrize(
    "content", [b"", b"text", b"BMW 7", b"P5", b"\0" * 40, b"%!PS-Adobe-3.0 EPSF-3.0", b"%PDF-1.7", b"8BPS"]
)
@pytest.mark.parametrize("name", ["a", "a.txt", "Thumbs.db", "a.json"])
def test_other_files_are_none(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path / name) is Kind.NONE


def test_no_ending_is_of_two_kinds():
    endings = [ending for each in FORMATS.values() for ending in each]
    assert len(endings) == len(set(endings)) and OTHER_ENDINGS.isdisjoint(endings)


@pytest.mark.parametrize("kind", ["png", "tif", "gif", "webp"])
def test_the_first_frame_of_several_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
    assert read(tmp_path / f"a.{kind}").getpixel((4, 4)) == (255, 0, 0)


def test_one_place_opens_pictures():
    """Pillow left to itself starts programs for some formats: every other file of the package asks this one."""
    opening = []
    package = Path(vlmadapt.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "Image.open",
                "PIL.Image.open",
                "plt.imread",
            )
            if named or (isinstance(node, ast.ImportFrom) and node.module == "PIL.Image"):
                opening.append(path.relative_to(package).as_posix())
    assert set(opening) == {"pictures/read.py"}
    calls = [
        node
        for node in ast.walk(ast.parse((package / "pictures" / "read.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
    ]
    assert calls and all("formats" in {word.arg for word in call.keywords} for call in calls)
