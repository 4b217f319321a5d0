"""Errors a user can act on: one sentence that names the argument or file, its value and the fix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor


class VlmadaptError(Exception):
    """Base class of every error this package raises on purpose."""


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


def check_finite(name: str, tensor: Tensor, fix: str) -> None:
    """Raise :class:`InputError` naming the first NaN or infinity of ``tensor``; ``fix`` completes the sentence."""
    if tensor.numel() == 0 or bool(torch.isfinite(tensor).all()):
        return
    position = torch.nonzero(~torch.isfinite(tensor))[0].tolist()
    value = tensor[tuple(position)].item()
    shown = "NaN" if math.isnan(value) else f"{value}"
    raise InputError(f"{name} holds {shown} at index {position}: {fix}.")


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
