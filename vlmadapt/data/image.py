"""Any picture file to 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vlmadapt.errors import FileError, naming_file

WIDE_MODES = ("I", "F")  # and every "I;16..." variant


def open_image(path: str | Path) -> Image.Image:
    """Read a picture as mode ``RGB``, 8 bits a channel.

    EXIF orientation is applied; transparency is composited on white; palettes, CMYK and 16-bit greys are converted;
    of an animation the first frame is taken. Raises :class:`FileError` naming the file when it is missing, is no
    picture, or is truncated.
    """
    path = Path(path)
    with naming_file(path, "read"):
        data = path.read_bytes()
    return decode_image(data, path)


def decode_image(data: bytes, path: Path) -> Image.Image:
    """:func:`open_image` of bytes already read; ``path`` is for the message of its :class:`FileError`."""
    if not data:
        raise FileError(f"{path} is an empty file: replace it with a picture or remove it.")
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of large pictures; beyond twice that size it raises, which we report.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:
        # Decoders raise whatever a malformed file makes them stumble over: struct, Syntax, Index, EOF and OS errors.
        reason = "the format is not recognised" if isinstance(error, UnidentifiedImageError) else str(error)
        raise FileError(f"{path} is not a readable picture ({reason}): replace or remove it.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE_MODES or image.mode.startswith("I;"):
        return _from_wide(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image)
        image = page
    return image.convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits: integers above 255 are taken as 16-bit, floats up to 1 as shares of white."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite grey values")
    peak = float(values.max(initial=0.0))
    if image.mode == "F" and peak <= 1.0:
        values = values * 255
    elif image.mode.startswith("I;16") or peak > 255:
        values = values / 257
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
