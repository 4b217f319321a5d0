"""Small files that claim to be large: headers of vast pictures, many frames, large metadata."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SIDE = 50_000  # 2.5e9 pixels


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """Rows of zeros that compress to a thousandth, as far as 1 MiB of them."""
    rows = zlib.compress(b"\0" * min((1 + 3 * width) * height, 1 << 20))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def saved(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, kind, **options)
    return stream.getvalue()


def resized(content: bytes, at: int, layout: str) -> bytes:
    """``content`` with width and height at ``at`` replaced."""
    size = struct.pack(layout, SIDE, SIDE)
    return content[:at] + size + content[at + len(size) :]


def jpeg() -> bytes:
    content = saved("JPEG")
    return resized(content, content.index(b"\xff\xc0") + 5, ">HH")


def jpeg2000() -> bytes:
    """The code stream's own header: extent, offset, tile and its offset."""
    content = saved("JPEG2000", no_jp2=True)
    at = content.index(b"\xff\x51") + 6
    return content[:at] + struct.pack(">8I", SIDE, SIDE, 0, 0, SIDE, SIDE, 0, 0) + content[at + 32 :]


def tiff() -> bytes:
    content = bytearray(saved("TIFF"))
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry)[0] in (256, 257, 278):  # width, height, rows in a strip
            struct.pack_into("<HII", content, entry + 2, 4, 1, SIDE)
    return bytes(content)


def webp() -> bytes:
    """16,383 is the most the format can say, in 14 bits each of (side - 1); beyond the limit all the same."""
    content = saved("WEBP", lossless=True)
    at = content.index(b"VP8L") + 9
    flags = content[at + 3] & 0xF0
    return content[:at] + (16_382 | 16_382 << 14 | flags << 24).to_bytes(4, "little") + content[at + 4 :]


LARGE: dict[str, Callable[[], bytes]] = {
    "png": lambda: png(SIDE, SIDE),
    "jpg": jpeg,
    "gif": lambda: resized(saved("GIF"), 6, "<HH"),
    "bmp": lambda: resized(saved("BMP"), 18, "<ii"),
    "ppm": lambda: b"P6 %d %d 255\n" % (SIDE, SIDE),
    "tif": tiff,
    "j2k": jpeg2000,
    "webp": webp,
}


def animated(kind: str, frames: int) -> bytes:
    """A red frame and ``frames`` of other colours."""
    stream = io.BytesIO()
    others = [Image.new("RGB", (16, 16), (number % 256, 0, number // 256)) for number in range(frames)]
    first = Image.new("RGB", (16, 16), "red")
    first.save(stream, kind, save_all=True, append_images=others, duration=20)
    return stream.getvalue()


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    return saved("JPEG", exif=exif)


def _with_text() -> bytes:
    info = PngInfo()
    for number in range(40):
        info.add_text(f"k{number}", "x" * 900_000, zip=True)
    return saved("PNG", pnginfo=info)


ZEROS = zlib.compress(b"\0" * (256 << 20))  # 256 KiB
METADATA: dict[str, Callable[[], bytes]] = {
    "icc.png": lambda: png(8, 8, chunk(b"iCCP", b"x\0\0" + ZEROS)),
    "text.png": lambda: png(8, 8, chunk(b"zTXt", b"x\0\0" + ZEROS)),
    "itxt.png": lambda: png(8, 8, chunk(b"iTXt", b"x\0\1\0\0\0" + ZEROS)),
    "exif.png": lambda: png(8, 8, chunk(b"eXIf", b"II*\0\x08\0\0\0" + b"\xff" * 100_000)),
    "texts.png": _with_text,
    "icc.jpg": lambda: saved("JPEG", icc_profile=b"\0" * 4_000_000),
    "exif.jpg": _with_exif,
    "icc.webp": lambda: saved("WEBP", icc_profile=b"\0" * 4_000_000),
}
