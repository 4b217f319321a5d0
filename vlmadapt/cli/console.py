"""What commands say: results to standard output, everything else to standard error."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


# What a stream of another encoding than UTF-8 most often lacks.
SPELT = {"±": "+-", "\u00d7": "x", "…": "...", "·": ".", "─": "-"}
REPLACED = "vlmadapt"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """``SPELT``, and escapes for the rest: nothing that is printed fails for its letters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(SPELT.get(letter, letter.encode("ascii", "backslashreplace").decode()) for letter in bad), error.end


codecs.register_error(REPLACED, _spell)


def prepare_streams() -> None:
    """Let standard output and error take any text, whatever their encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACED)


def drop_output() -> None:
    """Send what is still to be printed nowhere, so that the interpreter does not complain of it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, or none with a handle
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def lost_output(error: Exception) -> str | None:
    """What to say where ``error`` is of standard output, or standard error, sent to a file that takes no more.

    None for any other: errors of files that this package writes are its own, and name them.
    """
    if isinstance(error, OSError) and error.filename is None and error.errno in NO_ROOM:
        return f"could not write standard output: {error.strerror}: make room or send it elsewhere."
    return None


def _json(value: Any) -> str:
    """``value`` as JSON, in escapes where standard output's encoding lacks a letter."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    return text


class JsonList:
    """``with JsonList() as listed: listed.add(value)``: a list as JSON to standard output, a value at a time.

    No value is kept. An error before the first leaves nothing printed; one after it leaves the list without its end.
    """

    def __init__(self) -> None:
        self._printed = False

    def __enter__(self) -> JsonList:
        return self

    def add(self, value: Any) -> None:
        print(",\n" if self._printed else "[\n", end="")
        self._printed = True
        print("  " + _json(value).replace("\n", "\n  "), end="")

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            print("\n]" if self._printed else "[]")


def output() -> Console:
    """Made on each call, because tests and pipes replace the streams."""
    return _console(sys.stdout)


def _console(stream: IO[str]) -> Console:
    from rich.console import Console

    class Honest(Console):
        """Leaves a pipe that nobody reads to the commands, which end as shells expect; rich would end with 1."""

        def on_broken_pipe(self) -> None:
            raise

    return Honest(file=stream, highlight=False)


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

    if stream is None:  # closed before the program began; rich would take standard output instead
        return
    # soft_wrap leaves long lines to the terminal, so that paths and commands can be copied whole.
    _console(stream).print(text, style=style, markup=False, highlight=False, soft_wrap=True)
