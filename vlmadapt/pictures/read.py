"""A picture file, or a picture opened with PIL, to 8-bit RGB: the only place that opens or converts one."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vlmadapt.errors import FileError, InputError
from vlmadapt.files import read_bytes, sha256_of_file

# The limits of one picture. Beyond them a file is refused before its pixels are decoded.
LONGEST_SIDE = 100_000  # pixels; what is longer is no photograph, and square padding would need its square
MOST_PIXELS = 2 * 89_478_485  # where Pillow refuses unless it is told otherwise; here others cannot tell it
MOST_BYTES = 1 << 30  # of a file: uncompressed, the pixels above have about as many
BAND = 2**20  # pixels of wide greys that are converted at once
# The formats that are opened, by Pillow's names, with the file endings that folders are searched for. All else is
# refused: some of Pillow's readers start programs (EPS runs `gs`). MPO and UltraHDR files are opened as JPEG.
FORMATS: dict[str, tuple[str, ...]] = {
    "AVIF": (".avif", ".avifs"),  # from Pillow 11.3 on
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
WIDE_MODES = ("I", "F")  # and every "I;16..." variant
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}  # Pillow converts these to their plain forms only
PILLOW = r"PIL\b"
_lock = threading.Lock()
_silent = 0  # threads that read a picture now


def read(picture: str | Path | Image.Image, name: str = "picture") -> Image.Image:
    """A file, or a picture opened with PIL, as mode ``RGB``, 8 bits a channel; both ways give the same pixels.

    EXIF orientation is applied; what is transparent is laid on white; palettes, CMYK, LAB and greys of 16 bits or of
    floats are converted, without colour management. Of an animated file the first frame is taken, of an opened
    animation the frame it stands at. A plain RGB picture is returned as it is, not copied. ``name`` is the argument
    that holds ``picture``, for messages.

    Raises :class:`FileError` naming a file, or an opened picture's file, that is missing, is no ordinary file, is in
    none of ``FORMATS``, is truncated, has more than ``MOST_BYTES``, more pixels than ``MOST_PIXELS`` (or than Pillow
    allows) or a side above ``LONGEST_SIDE``, or holds NaN or infinite values; :class:`InputError` when such a picture
    has no file, and for any other type.
    """
    if isinstance(picture, Image.Image):
        try:
            return _to_rgb(picture)
        except MemoryError:
            raise
        except Exception as error:
            # A file's pixels are first read here, so that a truncated one shows here.
            file = getattr(picture, "filename", "")
            raise _unreadable(os.fsdecode(file) if file else None, name, error) from error
    if not isinstance(picture, (str, Path)):
        raise InputError(f"{name} is a {type(picture).__name__}: give a path or a PIL picture.")
    return decode(contents(picture), picture)


def contents(path: str | Path) -> bytes:
    """The bytes of a picture's file; raises :class:`FileError` for no ordinary file and beyond ``MOST_BYTES``."""
    return read_bytes(path, MOST_BYTES)


def digest_of(path: str | Path) -> str:
    """sha256 (hex) of a picture's file; raises what :func:`contents` raises."""
    return sha256_of_file(path, MOST_BYTES)


def decode(data: bytes, path: str | Path, least: int | None = None) -> Image.Image:
    """:func:`read` of a file's bytes; ``path`` is for the message of the :class:`FileError`.

    least: pixels a side that are enough, where a format can be decoded smaller, which is faster.
    """
    if not data:
        raise FileError(f"{path} is an empty file: replace it with a picture or remove it.")
    try:
        # Pillow warns of odd metadata and of large pictures; beyond twice that size it raises, which we report.
        with pillow_silent():
            image = Image.open(io.BytesIO(data), formats=formats())
            if least is not None:
                image.draft(None, (least, least))
            return _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:
        # Decoders raise whatever a malformed file makes them stumble over: struct, Syntax, Index, EOF and OS errors.
        raise _unreadable(str(path), "", error) from error


def size_of(data: bytes, path: str | Path) -> tuple[int, int]:
    """(width, height) as a file's bytes give them, before EXIF turns the picture; nothing is decoded.

    Raises :class:`FileError` naming ``path`` as :func:`decode` does.
    """
    try:
        with pillow_silent():
            return Image.open(io.BytesIO(data), formats=formats()).size
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(str(path), "", error) from error


@contextmanager
def pillow_silent() -> Iterator[None]:
    """No warnings of Pillow while any thread is in this block; others' are untouched.

    ``warnings.catch_warnings`` is for one thread: of two, the last to leave puts back what the first had changed, and
    everybody's warnings stay switched off.
    """
    global _silent
    with _lock:
        if not _silent:
            warnings.filterwarnings("ignore", module=PILLOW)
        _silent += 1
    try:
        yield
    finally:
        with _lock:
            _silent -= 1
            if not _silent:
                warnings.filters[:] = [  # type: ignore[index]
                    entry for entry in warnings.filters if getattr(entry[3], "pattern", entry[3]) != PILLOW
                ]


@cache
def formats() -> tuple[str, ...]:
    """``FORMATS`` as far as this Pillow has them; it fails on names it does not know."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unreadable(path: str | None, name: str, error: Exception) -> FileError | InputError:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = f"the format is not recognised as one of {', '.join(FORMATS)}"
    kind = InputError if path is None else FileError
    return kind(f"{path or name} is not a readable picture ({reason}): replace or remove it.")


def _to_rgb(image: Image.Image) -> Image.Image:
    if max(image.size) > LONGEST_SIDE:
        raise ValueError(f"it is {image.width} x {image.height} pixels, a side above {LONGEST_SIDE}")
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it is {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
    image.load()
    # Of a turned picture `exif_transpose` takes the orientation away, so that reading it again does not turn it again;
    # of one that needs no turning it makes a copy, which is spared.
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in WIDE_MODES or image.mode.startswith("I;"):
        return _from_wide(image)
    if image.has_transparency_data:
        if image.mode in PREMULTIPLIED:
            image = image.convert(PREMULTIPLIED[image.mode])
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image)
        image = page
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits: integers above 255 are taken as 16-bit, floats up to 1 as shares of white.

    Where mode ``I`` came from is not asked, so that a copy, which does not know, gives the same.
    """
    wide = np.asarray(image)
    step = max(1, BAND // max(image.width, 1))
    bands = [slice(top, top + step) for top in range(0, image.height, step)]
    if not all(np.isfinite(wide[rows]).all() for rows in bands):
        raise ValueError("it holds NaN or infinite grey values")
    peak = float(wide.max(initial=0))
    factor, divisor = 1, 1
    if image.mode == "F" and peak <= 1.0:
        factor = 255
    elif image.mode.startswith("I;16") or peak > 255:
        divisor = 257
    clear = image.info.get("transparency")  # of a PNG: the one grey that is transparent
    grey = np.empty(wide.shape, np.uint8)
    for rows in bands:
        values = wide[rows].astype(np.float64)
        grey[rows] = np.clip(np.rint(values * factor / divisor), 0, 255)
        if isinstance(clear, int):
            grey[rows][values == clear] = 255
    return Image.fromarray(grey).convert("RGB")
