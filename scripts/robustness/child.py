"""Children: every cell, and every command in it, runs in a fork of a process that has imported everything already."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, MIB = 3600, 6144  # of a cell: what hangs is found sooner, by ``patience``


@dataclass(frozen=True)
class Said:
    """How a command ended: exit code (minus the signal that ended it), standard output and error."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip() if lines else ""

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.err


def start(work: Callable[[], int | None], place: Path, cwd: Path) -> int:
    """Fork; ``work`` runs with its streams in ``place`` and in the folder ``cwd``. The child's process id."""
    place.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.chdir(cwd)
        for number, name in ((1, "out"), (2, "err")):
            opened = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        sys.stderr.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[attr-defined]
        code = work() or 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(pid: int, place: Path) -> Said:
    """Wait for a child of ``start``."""
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    out, err = ((place / name).read_text(encoding="utf-8", errors="backslashreplace") for name in ("out", "err"))
    return Said(code, out, err)


def as_any_user() -> None:
    """From here on the modes of files bind this process, also where it is root's (Linux)."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    overrides = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capget(header, sets) == 0:
        sets[0], sets[1] = sets[0] & ~overrides, sets[1] & ~overrides
        libc.capset(header, sets)


def killed_beyond(size: int, work: Callable[[], Any]) -> int:
    """``work`` in a child that the system kills when it writes more than ``size`` bytes into one file; how it ended."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        code = 1
        with suppress(BaseException):
            code = work() or 0
        os._exit(code if isinstance(code, int) else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class AtFault(Exception):
    """A case that fails itself, with its traceback: no result of anybody."""


class NotDone(Exception):
    """A call that does not end."""


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Raises NotDone inside the block after ``seconds`` of processor time: a busy machine changes no outcome."""

    def stop(*_: object) -> None:
        raise NotDone(f"not done after {seconds:g} s of processor time")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def resident_mib(group: int) -> float:
    """The largest process of a process group, children of children included."""
    largest = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:
                    largest = max(largest, int(fields[21]))
    return largest * resource.getpagesize() / 2**20


def isolated(work: Callable[[], Any], seconds: float = SECONDS, mib: float = MIB) -> tuple[Any, str]:
    """What ``work`` returns (JSON), or None and how it ended: killed, over its time or over its memory.

    Raises AtFault for any exception that ``work`` lets out.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        os.close(reader)
        try:
            found: dict[str, Any] = {"value": work()}
        except BaseException:
            found = {"raised": traceback.format_exc()}
        with os.fdopen(writer, "w") as stream:
            json.dump(found, stream)
        os._exit(0)
    os.close(writer)
    with suppress(OSError):
        os.setpgid(pid, pid)
    end, text, why = time.monotonic() + seconds, b"", ""
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while not why:
            if select.select([stream], [], [], 0.1)[0]:
                part = stream.read(1 << 16)
                if not part:
                    break
                text += part
            if time.monotonic() > end:
                why = f"not done after {seconds:.0f} s"
            elif resident_mib(pid) > mib:
                why = f"over {mib:.0f} MiB"
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if why or not text:
        return None, why or f"ended with {os.waitstatus_to_exitcode(status)}"
    found = json.loads(text)
    if "raised" in found:
        raise AtFault(found["raised"])
    return found["value"], ""
