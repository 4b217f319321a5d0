"""Picture files of every kind the door must know, each with the RGB that a person sees."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

HEIGHT, WIDTH = 6, 9  # no symmetry: a turn or a mirror image shows
ORIENTATION = 0x0112
# What shows a stored picture upright, by EXIF orientation (the standard's table, in numpy's words).
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


@dataclass(frozen=True)
class Kind:
    """``image`` saved as a file ending in ``suffix``; ``seen`` uint8 [H, W, 3], to ``within`` where coding loses."""

    suffix: str
    image: Image.Image
    seen: np.ndarray
    within: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    content: bytes = b""  # what Pillow's oldest supported version cannot write

    def write(self, folder: Path) -> Path:
        path = folder / f"picture.{self.suffix}"
        if self.content:
            path.write_bytes(self.content)
        else:
            self.image.save(path, **self.options)
        return path


def noise(channels: int, top: int = 256, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, top, (HEIGHT, WIDTH, channels)).astype(dtype)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours uint8 [H, W, 3] or greys [H, W, 1], ``alpha`` uint8 [H, W, 1]."""
    share = alpha / 255
    mixed = np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)
    return np.broadcast_to(mixed, (*mixed.shape[:2], 3))


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.reshape(HEIGHT, WIDTH, 1), 3, axis=-1)


def wide(dtype: str = "<u2") -> np.ndarray:
    """16-bit greys [H, W], black and white among them, of either byte order."""
    values = noise(1, 65536, np.uint16)[..., 0]
    values[0, :2] = 0, 65535
    return values.astype(dtype)


def wide_image(mode: str) -> Image.Image:
    return Image.frombytes(mode, (WIDTH, HEIGHT), wide(">u2" if mode.endswith("B") else "<u2").tobytes())


def with_clear_grey(image: Image.Image, value: int) -> bytes:
    """A PNG whose tRNS chunk makes one 16-bit grey transparent."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    head, mark, rest = stream.getvalue().partition(b"IDAT")
    chunk = b"tRNS" + value.to_bytes(2, "big")
    length, sum_ = (2).to_bytes(4, "big"), zlib.crc32(chunk).to_bytes(4, "big")
    return head[:-4] + length + chunk + sum_ + head[-4:] + mark + rest


def palette() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A picture of 4 palette colours, the colours uint8 [4, 3], and which pixel has which [H, W]."""
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 250, 0], [90, 0, 160]], dtype=np.uint8)
    index = noise(1, 4)[..., 0]
    image = Image.fromarray(index).copy()
    image.putpalette(colours.tobytes())
    return image, colours, index


def turned(suffix: str, orientation: int, within: int = 0, **options: Any) -> Kind:
    # Flat quarters in four colours survive JPEG.
    quarters = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 240]]], dtype=np.uint8)
    stored = np.kron(quarters, np.ones((16, 24, 1), dtype=np.uint8))
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    return Kind(suffix, image, UPRIGHT[orientation](stored), within, {"exif": exif, **options})


def kinds() -> dict[str, Kind]:
    rgba, la, rgb = noise(4), noise(2), noise(3)
    indexed, colours, index = palette()
    alphas = np.array([0, 128, 255, 60], dtype=np.uint8)
    hidden = colours[index].copy()
    hidden[index == 1] = 255
    narrow = np.rint(wide() / 257).astype(np.uint8)
    keyed = narrow.copy()
    keyed[wide() == wide()[2, 2]] = 255
    shares = noise(1)[..., 0].astype(np.float32) / 255
    shares[0, 0] = 1
    flat = np.full((HEIGHT, WIDTH, 3), (255, 0, 0), dtype=np.uint8)
    cmyk = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0))
    frames = [Image.new("RGB", (WIDTH, HEIGHT), name) for name in ("red", "blue")]
    several: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 100}
    found = {
        "RGB": Kind("png", Image.fromarray(rgb), rgb),
        "RGB, one colour transparent": Kind(
            "png", Image.fromarray(flat), flat * 0 + 255, 0, {"transparency": (255, 0, 0)}
        ),
        "RGBA": Kind("png", Image.fromarray(rgba), on_white(rgba[..., :3], rgba[..., 3:]), 1),
        "RGBA TIFF": Kind("tif", Image.fromarray(rgba), on_white(rgba[..., :3], rgba[..., 3:]), 1),
        "RGBA WebP": Kind("webp", Image.fromarray(rgba), on_white(rgba[..., :3], rgba[..., 3:]), 1, {"lossless": True}),
        "LA": Kind("png", Image.fromarray(la), on_white(la[..., :1], la[..., 1:]), 1),
        "L": Kind("png", Image.fromarray(rgb[..., 0]), grey(rgb[..., 0])),
        "1": Kind("png", Image.fromarray(rgb[..., 0] > 99), grey((rgb[..., 0] > 99) * np.uint8(255))),
        "palette": Kind("png", indexed, colours[index]),
        "palette, one colour transparent": Kind("png", indexed, hidden, 0, {"transparency": 1}),
        "palette, an alpha a colour": Kind(
            "png", indexed, on_white(colours[index], alphas[index][..., None]), 1, {"transparency": alphas.tobytes()}
        ),
        "palette GIF": Kind("gif", indexed, hidden, 0, {"transparency": 1}),
        "16-bit PNG": Kind("png", wide_image("I;16"), grey(narrow)),
        "16-bit PNG, big-endian": Kind("png", wide_image("I;16B"), grey(narrow)),
        "16-bit PNG, one grey transparent": Kind(
            "png", wide_image("I;16"), grey(keyed), content=with_clear_grey(wide_image("I;16"), int(wide()[2, 2]))
        ),
        "16-bit TIFF": Kind("tif", wide_image("I;16"), grey(narrow)),
        "16-bit TIFF, big-endian": Kind("tif", wide_image("I;16B"), grey(narrow)),
        "16-bit PGM": Kind(
            "pgm",
            wide_image("I;16"),
            grey(narrow),
            content=b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + wide(">u2").tobytes(),
        ),
        "32-bit TIFF": Kind("tif", Image.fromarray(wide().astype(np.int32)), grey(narrow)),
        "float TIFF": Kind("tif", Image.fromarray(shares), grey(np.rint(shares * 255).astype(np.uint8))),
        # Pillow writes Adobe's marker and inverted inks, as Photoshop does.
        "CMYK JPEG": Kind("jpg", cmyk, flat, 3, {"quality": 95}),
        "CMYK TIFF": Kind("tif", cmyk, flat),
        "LAB TIFF": Kind("tif", Image.new("LAB", (WIDTH, HEIGHT), (255, 128, 128)), flat * 0 + 255, 2),
        "animated GIF": Kind("gif", frames[0], flat, 3, several),
        "animated WebP": Kind("webp", frames[0], flat, 3, {**several, "lossless": True}),
    }
    if features.check("avif"):
        found["AVIF"] = Kind("avif", frames[0], flat, 3)
    for orientation in UPRIGHT:
        found[f"EXIF {orientation}, JPEG"] = turned("jpg", orientation, 4, quality=95, subsampling=0)
        found[f"EXIF {orientation}, PNG"] = turned("png", orientation)
        found[f"EXIF {orientation}, TIFF"] = turned("tif", orientation)
        found[f"EXIF {orientation}, WebP"] = turned("webp", orientation, lossless=True)
    sideways, xmp = turned("png", 6), PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", XMP % 6)
    found["orientation in XMP"] = Kind("png", sideways.image, sideways.seen, 0, {"pnginfo": xmp})
    return found


KINDS = kinds()
