"""``injector.c`` from Python: built by the C compiler, preloaded, armed in the process it is in."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("injector.c")
KINDS = ("write", "rename", "fsync", "open", "mkdir", "unlink", "truncate")
ACTIONS = ("count", "kill", "term", "full", "broken")  # full: ENOSPC from then on; broken: EIO, once


class Point(NamedTuple):
    """A call that changes a file: its kind and the path."""

    kind: str
    path: str


def compiler() -> str | None:
    """The C compiler, where there is one and the system preloads libraries."""
    return shutil.which("cc") or shutil.which("gcc") if sys.platform == "linux" else None


def build(folder: Path) -> Path:
    """The library, built into ``folder``."""
    library, cc = folder / "injector.so", compiler()
    assert cc is not None
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """For a process that can be armed: one thread, so that it can fork and all its sums come out alike."""
    alone = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **alone, **quiet, "LD_PRELOAD": str(library)}


class Injector:
    """The preloaded library. Raises ``AttributeError`` where it is not."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)
        self.library.torture_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int]
        self.library.torture_count.restype = ctypes.c_long
        self.library.torture_kind.argtypes = self.library.torture_path.argtypes = [ctypes.c_long]
        self.library.torture_path.restype = ctypes.c_char_p

    def arm(self, root: Path, action: str = "count", at: int = -1) -> None:
        """From now on count the calls below ``root``; at number ``at``, from 0, do ``action``."""
        self.library.torture_arm(os.fsencode(os.path.realpath(root)), at, ACTIONS.index(action))

    def disarm(self) -> list[Point]:
        """Stop counting; what was counted."""
        self.library.torture_disarm()
        return [
            Point(KINDS[self.library.torture_kind(number)], os.fsdecode(self.library.torture_path(number)))
            for number in range(self.library.torture_count())
        ]
