"""What our operators are raced against, a module an operator; the races are ``bench_*.py`` and ``borrowed``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch


class MissingRival(Exception):
    """A package that a rival is of is not installed; the text names it."""


def needed(module: str, name: str) -> Any:
    """The module, or :class:`MissingRival`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingRival(f"{name} is not installed: pip install 'vlmadapt[bench]'") from error


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` for the shapes that it meets next.

    What was compiled before is forgotten: beyond eight shapes or types of one function it would silently run as it is.
    """
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)
