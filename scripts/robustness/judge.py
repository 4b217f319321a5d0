"""The criterion, the same in every column.

A *clear error* is one that names the argument, file or value at fault: of a command, in its last line, without a
traceback; of a Python call, in the message of its exception, whatever its class. What ends otherwise without the right
result is a *crash*; what ends well without it is *silent wrong*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .case import CLEAR, CRASH, RIGHT, SILENT, Verdict
from .child import NotDone, Said, patience

SECONDS = 30  # what a call may take that has a few small pictures


def judged(right: bool, why: str, of: str = "") -> Verdict:
    """Of a run that ended well."""
    return Verdict(RIGHT if right else SILENT, why, of=of)


def named(text: str, names: Iterable[str]) -> bool:
    return any(name in text for name in names)


def of_command(said: Said, names: Iterable[str], check: Callable[[], tuple[bool, str]], of: str = "") -> Verdict:
    """``names``: one of them must be in a clear error. ``check``: is the result right, and what was seen."""
    if said.code == 0 and not said.traceback:
        right, why = check()
        return Verdict(RIGHT if right else SILENT, why, 0, said.last, of)
    if said.code > 0 and not said.traceback and named(said.last, names):
        return Verdict(CLEAR, "refused", said.code, said.last, of)
    return Verdict(CRASH, "traceback" if said.traceback else f"exit code {said.code}", said.code, said.last, of)


def refused(said: Said, names: Iterable[str], of: str = "") -> Verdict:
    """Of what must not be done: ending well is wrong."""
    return of_command(said, names, lambda: (False, "done without a word"), of)


def of_call(
    call: Callable[[], Any], names: Iterable[str], check: Callable[[Any], tuple[bool, str]], of: str = ""
) -> Verdict:
    """The same of a Python call."""
    try:
        with patience(SECONDS):
            value = call()
    except NotDone as error:
        return Verdict(CRASH, f"hangs: {error}", of=of)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        text = f"{type(error).__name__}: {lines[-1]}"
        return Verdict(
            CLEAR if named(str(error), names) else CRASH,
            "refused" if named(str(error), names) else "exception",
            None,
            text,
            of,
        )
    right, why = check(value)
    return Verdict(RIGHT if right else SILENT, why, of=of)
