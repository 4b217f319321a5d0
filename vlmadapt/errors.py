"""Errors a user can act on: one sentence that names the argument or file, its value and the fix."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

# Directions of characters that turn the text around them: a name could be made to look like another.
TURNS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))


class VlmadaptError(Exception):
    """Base class of every error this package raises on purpose.

    As text it is one line, whatever names of files and classes are in it: see :func:`shown`.
    """

    def __str__(self) -> str:
        return shown(super().__str__())


class InputError(VlmadaptError, ValueError):
    """An argument has the wrong shape, type, range or content."""


class FileError(VlmadaptError, OSError):
    """A file is missing, unreadable, malformed or cannot be written; the message names it."""


class MissingDependency(VlmadaptError, ImportError):
    """A package, weight file or compiled library is absent; the message holds the command that installs it."""


class IncompatibleLibrary(VlmadaptError, RuntimeError):
    """An installed library is of a version that this package does not know how to work with; the message names both."""


def shape_of(tensor: Tensor) -> str:
    """``float32 [3, 512]``: how error messages show a tensor."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def all_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite. A finite sum proves it in one pass; large numbers may overflow in it."""
    return bool(torch.isfinite(tensor.detach().sum())) or bool(torch.isfinite(tensor).all())


def check_finite(name: str, tensor: Tensor, fix: str) -> None:
    """Raise :class:`InputError` naming the first NaN or infinity of ``tensor``; ``fix`` completes the sentence."""
    if all_finite(tensor):
        return
    position = torch.nonzero(~torch.isfinite(tensor))[0].tolist()
    value = tensor[tuple(position)].item()
    number = "NaN" if math.isnan(value) else f"{value}"
    raise InputError(f"{name} holds {number} at index {position}: {fix}.")


@contextmanager
def naming_file(path: str | Path, action: str) -> Iterator[None]:
    """Turn an ``OSError`` raised inside the block into a :class:`FileError` that names ``path``."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"could not {action} {path}: {reason}.") from error


def shown(text: str | Path) -> str:
    """``text`` as it can be printed in one line: bytes that are not UTF-8, and control characters, as ``\\xe9``."""
    text = os.fspath(text)
    return text if text.isascii() and text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code < 0xE000:  # a byte that is not UTF-8, as Python keeps it, or half a pair
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
    if unicodedata.category(character) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(character) in TURNS:
        return repr(character)[1:-1] if code < 0x80 else f"\\u{code:04x}"
    return character
