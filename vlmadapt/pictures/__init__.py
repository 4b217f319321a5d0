"""Pictures: the one door through which a file or a PIL picture becomes RGB, and on to pixels and features."""

from vlmadapt.pictures.encode import encode
from vlmadapt.pictures.read import FORMATS, SUFFIXES, decode, read

__all__ = ["FORMATS", "SUFFIXES", "decode", "encode", "read"]
