"""Which files are pictures, told by their ending and, where that says nothing, by their first bytes."""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from pathlib import Path

from vlmadapt.files import open_file
from vlmadapt.kinds import of_kinds
from vlmadapt.pictures.read import FORMATS, formats


class Kind(Enum):
    """``PICTURE``: opened. ``OTHER``: a picture, but of a format that is not opened, or a copy some program left.
    ``NONE``: no picture."""

    PICTURE = "picture"
    OTHER = "other picture"
    NONE = "no picture"


# Endings of pictures that are never opened. Raw files of cameras hold a small TIFF or JPEG that is not the picture.
_OTHERS = """
.3fr .ai .arw .bpg .cin .cr2 .cr3 .crw .cur .dcm .dcr .dds .dib .djvu .dng .dpx .emf .eps .erf .exr .fit .fits
.flif .fpx .hdr .heic .heics .heif .heifs .hif .icns .ico .iff .jls .jxl .jxr .kdc .mef .mrw .nef .nrw .orf
.pam .pcx .pef .pfm .pic .pict .psb .psd .qoi .raf .raw .rgb .rw2 .rwl .sgi .sr2 .srf .srw .svg .svgz .tga
.thm .wdp .wmf .x3f .xbm .xcf .xpm
"""
OTHER_ENDINGS = frozenset(_OTHERS.split())
RENAMED = frozenset((".heic", ".heif", ".hif", ".avif"))  # what telephones and web sites put on JPEGs, too
COPY = re.compile(r"(~|_original|\.(bak|tmp|part|partial|crdownload|download|orig|old))$", re.IGNORECASE)
BEGINNINGS = {
    "BMP": re.compile(rb"BM.{4}\0{4}", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "JPEG2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "PPM": re.compile(rb"P[1-6]\s+\d"),
    "TIFF": re.compile(rb"II\*\0|MM\0\*"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "AVIF": re.compile(rb"....ftypavi[fs]", re.DOTALL),
    "HEIF": re.compile(rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", re.DOTALL),
}
LOOKED_AT = 32  # bytes


@of_kinds
def kind_of(path: Path) -> Kind:
    """What ``path`` is; the file is opened only where its ending is none of a picture."""
    ending = path.suffix.strip().lower()
    if ending in _endings():
        return Kind.PICTURE
    foreign = ending in OTHER_ENDINGS or any(ending in endings for endings in FORMATS.values())
    if foreign and ending not in RENAMED:
        return Kind.OTHER
    try:
        with open_file(path) as stream:
            start = stream.read(LOOKED_AT)
    except OSError:
        return Kind.OTHER if foreign else Kind.NONE
    found = next((name for name, beginning in BEGINNINGS.items() if beginning.match(start)), None)
    if found is None:
        return Kind.OTHER if foreign else Kind.NONE
    return Kind.OTHER if found not in formats() or COPY.search(path.name) else Kind.PICTURE


@cache
def _endings() -> frozenset[str]:
    """The endings of the formats that this Pillow opens."""
    return frozenset(ending for name in formats() for ending in FORMATS[name])
