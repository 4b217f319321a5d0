"""Pictures: the one door through which a file or a PIL picture becomes RGB, and on to pixels and features."""

from vlmadapt.pictures.encode import encode
from vlmadapt.pictures.identity import Identity, identify
from vlmadapt.pictures.kinds import Kind, kind_of
from vlmadapt.pictures.read import FORMATS, SUFFIXES, decode, read

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Identity",
    "Kind",
    "decode",
    "encode",
    "identify",
    "kind_of",
    "read",
]
