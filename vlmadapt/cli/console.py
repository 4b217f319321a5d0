"""What commands say: results to standard output, everything else to standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def output() -> Console:
    """Made on each call, because tests and pipes replace the streams."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


def say(text: str, style: str | None = None) -> None:
    """A line of results."""
    _line(sys.stdout, text, style)


def note(text: str) -> None:
    """A line about what is going on."""
    _line(sys.stderr, text, "dim")


def warn(text: str) -> None:
    _line(sys.stderr, f"warning: {text}", "yellow")


def fail(text: str) -> None:
    _line(sys.stderr, text, "red")


def _line(stream: Any, text: str, style: str | None) -> None:
    from rich.console import Console

    # soft_wrap leaves long lines to the terminal, so that paths and commands can be copied whole.
    Console(file=stream).print(text, style=style, markup=False, highlight=False, soft_wrap=True)
