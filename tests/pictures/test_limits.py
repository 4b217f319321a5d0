"""What one picture may claim, and what it may cost."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pictures.bombs import LARGE, METADATA, SIDE, animated, png
from vlmadapt.errors import FileError, InputError
from vlmadapt.pictures import identify, read
from vlmadapt.pictures.read import BAND, LONGEST_SIDE, MOST_PIXELS, size_of
from vlmadapt.provenance.memory import PeakMemory

module = importlib.import_module("vlmadapt.pictures.read")  # its name is also that of the function
MIB = 64  # what a small file may take at most; the pixels it claims would take 7,000
FRAMES = {"gif": 3000, "webp": 3000, "png": 3000, "tiff": 200}  # Pillow writes TIFF slowly


def peak_of(read_it) -> float:
    """MiB beyond what was resident before."""
    with PeakMemory() as before:
        pass
    with PeakMemory() as peak:
        read_it()
    return peak.mib - before.mib


@pytest.mark.parametrize("told", ["as it is", "no limit"])
@pytest.mark.parametrize("kind", LARGE)
def test_a_small_file_of_a_vast_picture_is_refused(kind, told, tmp_path, monkeypatch):
    """Also where another library has switched Pillow's own limit off."""
    if told == "no limit":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / f"large.{kind}"
    path.write_bytes(LARGE[kind]())
    assert path.stat().st_size < 2000

    def refused() -> None:
        with pytest.raises(FileError, match=rf"large\.{kind} is not a readable picture \(.*178,?956,?970"):
            read(path)

    assert peak_of(refused) < MIB


def test_the_limits_are_those_stated(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"{MOST_PIXELS:,} pixels" in page and f"{LONGEST_SIDE:,} pixels" in page
    monkeypatch.setattr(module, "MOST_PIXELS", 12)
    for height, fits in ((3, True), (4, False)):
        Image.new("RGB", (4, height)).save(tmp_path / "a.png")
        if fits:
            assert read(tmp_path / "a.png").size == (4, 3)
            continue
        for picture in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
            with pytest.raises(FileError, match=r"a\.png .*4 x 4 pixels, more than 12\)"):
                read(picture)
        with pytest.raises(InputError, match=r"^picture .*4 x 4 pixels, more than 12\)"):
            read(Image.new("RGB", (4, 4)))


def test_a_side_beyond_the_limit_is_refused(tmp_path):
    path = tmp_path / "long.png"
    path.write_bytes(png(LONGEST_SIDE + 1, 1))
    with pytest.raises(FileError, match=r"long\.png .*100001 x 1 pixels, a side above 100000"):
        read(path)


@pytest.mark.parametrize("kind", FRAMES)
def test_of_thousands_of_frames_one_is_decoded(kind, tmp_path, monkeypatch):
    path = tmp_path / f"long.{kind}"
    path.write_bytes(animated(kind, FRAMES[kind]))
    seen: list[tuple[int, ...]] = []

    def once() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "seek", lambda *_: pytest.fail("another frame was looked for"))
            seen.append(read(path).getpixel((8, 8)))  # type: ignore[arg-type]

    assert peak_of(once) < MIB / 4  # the frames' pixels, and all states between, are more
    assert seen[0][0] > 240 and max(seen[0][1:]) < 20


@pytest.mark.parametrize("name", METADATA)
def test_large_metadata_cost_no_more_than_the_picture(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(METADATA[name]())
    said: list[str] = []

    def either() -> None:
        try:
            assert read(path).size == (8, 8)
        except FileError as error:
            said.append(str(error))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert peak_of(either) < MIB
    assert all(name in line for line in said)
    # Text and profiles that are small on the disk only are an error; what is as large as it looks is skipped.
    assert bool(said) == (name in ("icc.png", "text.png", "itxt.png"))


def test_a_picture_of_30000_by_20_takes_little(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 30_000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "long.png")
    assert peak_of(lambda: identify(tmp_path / "long.png")) < 32


@pytest.mark.parametrize("mode", ["F", "I", "I;16"])
def test_wide_greys_are_converted_in_bands(mode, tmp_path, monkeypatch):
    """As the whole is, to the last row; 8 bytes a pixel of float64, several times over, are not held."""
    dtype = {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]
    values: np.ndarray = np.arange(3 * BAND).reshape(-1, 1024) % 60_000
    if mode == "F":
        values = values / 60_000
    image = Image.fromarray(values.astype(dtype))
    assert image.mode == mode
    found: list[Image.Image] = []
    assert peak_of(lambda: found.append(read(image))) < 3 * BAND * 16 / 2**20 + 40
    factor = 255 if mode == "F" else 1 / 257
    seen = np.asarray(found[0])[..., 0].astype(int)
    assert np.abs(seen - values * factor).max() <= 0.5 + 1e-3
    monkeypatch.setattr(module, "BAND", 1)
    few = Image.fromarray(values[:40].astype(dtype))
    rows = np.asarray(read(few))
    assert mode == "F" or np.array_equal(rows, np.asarray(found[0])[:40])


def test_nan_in_the_last_band_is_found():
    values = np.zeros((3 * BAND // 1024, 1024), dtype=np.float32)
    values[-1, -1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        read(Image.fromarray(values))


def test_sizes_of_vast_pictures_are_refused_too(tmp_path):
    with pytest.raises(FileError, match=r"a\.png"):
        size_of(png(SIDE, SIDE), "a.png")
