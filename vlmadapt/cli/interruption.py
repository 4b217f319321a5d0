"""Ctrl-C, SIGTERM and SIGHUP: work is put away, a hint says how to go on, the exit code names the signal."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
RESUMED_BY_FLAG = ("fit",)
RESUMED_BY_REPEATING = ("compare", "demo", "features", "tune")  # the others leave nothing behind


class Terminated(KeyboardInterrupt):
    """A signal asked for the end; what is done on Ctrl-C is done then too."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ending_softly() -> Iterator[None]:
    """Inside the block, SIGTERM and SIGHUP raise :class:`Terminated`; a second one ends the process at once.

    Only in the main thread, and only those that would end the process: `nohup` ignores SIGHUP.
    """
    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, _frame: Any) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
        raise Terminated(number)

    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def exit_code(stop: KeyboardInterrupt) -> int:
    """As shells count: 128 and the number of the signal."""
    return 128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


def resume_hint(command: str | None, arguments: Sequence[str], stop: KeyboardInterrupt) -> str:
    """How the command with ``arguments`` goes on, and whether it does."""
    from vlmadapt.provenance.place import has_begun

    again = list(arguments)
    nothing_kept = command == "features" and "--no-cache" in again
    if nothing_kept or command not in RESUMED_BY_REPEATING + RESUMED_BY_FLAG:
        return "Interrupted."
    # Before the folder is the run's own, the same command does the same; after it, replacing would begin anew.
    if has_begun(stop):
        again = [argument for argument in again if argument != "--overwrite"]
        if command in RESUMED_BY_FLAG and "--resume" not in again:
            again.append("--resume")
    known = " (features are computed again, no cache keeps them)" if "--no-cache" in again else ""
    return f"Interrupted. To go on where it stopped{known}: vlmadapt {shlex.join(again)}"
