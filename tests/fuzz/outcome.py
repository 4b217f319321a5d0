"""What may come of reading anything: a valid value, or one sentence that names the file; in time, and in memory."""

from __future__ import annotations

import resource
import signal
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vlmadapt.errors import VlmadaptError

SECONDS = 20.0  # of one call, after which it counts as hanging: thousands of times what one takes
LONGEST = 20_000  # characters of a message, which may show a value of the file: no text here is longer


@dataclass(frozen=True)
class Attempt:
    """Something to read. ``names``: one of them must be in an error. ``check`` raises where the value is wrong."""

    read: Callable[[], Any]
    names: Sequence[str]
    check: Callable[[Any], None]


def attempted(attempt: Attempt) -> str:
    """``"read"`` or ``"refused"``; raises AssertionError, or what the reader should not have raised."""
    try:
        with in_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = attempt.read()
    except VlmadaptError as error:
        assert_sentence(str(error), attempt.names)
        return "refused"
    attempt.check(value)
    return "read"


def assert_sentence(text: str, names: Sequence[str]) -> None:
    """A sentence in one line that names one of ``names``, where there are any."""
    assert text.strip() and text.endswith((".", "?", ".)")), f"not a sentence: {text!r}"
    assert in_one_line(text), f"not one line: {text!r}"
    assert len(text) <= LONGEST, f"{len(text)} characters: {text[:200]!r}"
    assert not names or any(name in text for name in names), f"names none of {list(names)}: {text!r}"


def in_one_line(text: str) -> bool:
    """Whether no character of ``text`` moves the cursor or turns what stands around it."""
    return not any(unicodedata.category(each) in ("Cc", "Zl", "Zp") or each in "\u202a\u202b\u202e" for each in text)


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Raise AssertionError in a block that takes longer; only where signals can be had."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise AssertionError(f"hangs: no result after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    left = signal.setitimer(signal.ITIMER_REAL, seconds)[0]  # pytest-timeout's own
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def peak_mib() -> float:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
