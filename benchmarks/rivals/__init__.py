"""What our operators are raced against, a module an operator; the races are ``bench_*.py`` and ``borrowed``."""

from __future__ import annotations

import importlib
from typing import Any


class MissingRival(Exception):
    """A package that a rival is of is not installed; the text names it."""


def needed(module: str, name: str) -> Any:
    """The module, or :class:`MissingRival`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingRival(f"{name} is not installed: pip install 'vlmadapt[bench]'") from error
