"""Locks that end with the process that holds them, however it ends. Ours."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
FAR = 2**30  # Windows lets nobody read a locked byte: this one is beyond what is written


def try_lock(handle: int) -> bool | None:
    """Lock the open file ``handle`` until it is closed: False where another open file has the lock.

    Threads of one process exclude each other too. None where the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            os.lseek(handle, FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in TAKEN else None
    return True


def is_still(handle: int, path: Path) -> bool:
    """Whether ``path`` is the open file ``handle``: another process may have removed it before it was locked."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def let_go(handle: int, path: Path) -> None:
    """Remove the locked file ``path`` and close ``handle``, in an order in which nobody else takes it in between."""
    if os.name == "nt":  # which removes no open file
        os.close(handle)
    with suppress(OSError):
        path.unlink(missing_ok=True)
    if os.name != "nt":
        os.close(handle)
