"""Files and folders that are either wholly written or left as they were, and what killed writers leave behind. Ours.

What is being written lies in a folder of its own beside its place, ``.<name>.<8 characters>.vlmadapt.tmp``, with a
locked file in it: the lock ends with its process, so that a leftover is told from what another process is writing.
All that a writer puts there, such as temporary files of safetensors, goes with that folder.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlmadapt import locks
from vlmadapt.errors import naming_file

TEMPORARY = ".vlmadapt.tmp"
LOCK = ".lock"
# 0.1.0 called the temporary files of its own files a little otherwise; its successors' ones were files too.
_OURS = r"unfinished\.json|run\.json|adapter\.json|adapter\.safetensors|identity\.json|fit\.json|test\.json"
_RESULTS = r"results\.json|results\.csv|by_class\.csv|table\.md|curve\.png|evidence\.png|said\.png|graph\.png"
_OLD = rf"\.({_OURS}|{_RESULTS})\.\w{{8}}\.tmp"
_LEFTOVER = re.compile(rf"\..+\.\w{{8}}{re.escape(TEMPORARY)}|\..+\.vlmadapt\.lock|{_OLD}")
LONGEST_STEM = 48  # characters of a name in that of its temporary folder, so that both fit where the first does
STALE_SECONDS = 24 * 3600  # where the file system has no locks, what is of this age has no writer


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path to write; on success what is there replaces ``path``, on any error it is removed.

    The file is flushed to disk before it is renamed, so that a crash or a full disk leaves the old one untouched. What
    killed writers of ``path`` left is removed. Raises :class:`FileError` naming ``path``.
    """
    path = Path(path)
    with naming_file(path, "write"), _aside(path) as place:
        temporary = place / path.name
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        # Some writers make files private; give the result the permissions an ordinary open() would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it replaces ``path``, on any error it is removed.

    What killed writers of ``path`` left is removed. Raises :class:`FileError` naming ``path``.
    """
    path = Path(path)
    with naming_file(path, "write"), _aside(path) as place:
        temporary = place / path.name
        temporary.mkdir()
        yield temporary
        for folder in [temporary, *(inner for inner in temporary.rglob("*") if inner.is_dir())]:
            remove_leftovers(folder)  # once it is in its place, no writer of the same file would come by
        remove_tree(path)
        os.replace(temporary, path)


def remove_tree(folder: str | Path) -> None:
    """Remove ``folder``, if it is there; killed meanwhile, it is still whole or gone, never half there.

    Raises :class:`FileError` naming ``folder`` where it cannot be taken away.
    """
    folder = Path(folder)
    if folder.is_dir():
        with naming_file(folder, "remove"):
            gone = folder.with_name(f".{folder.name[:LONGEST_STEM]}.{secrets.token_hex(4)}{TEMPORARY}")
            os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_file(path: str | Path) -> None:
    """Remove the file ``path``, if it is there. Raises :class:`FileError` naming it where it cannot be taken away."""
    with naming_file(path, "remove"):
        Path(path).unlink(missing_ok=True)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A new locked folder beside ``path``, which is removed in the end, with what is left in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:LONGEST_STEM]}."
    remove_leftovers(path.parent, prefix)
    place, handle = _locked_folder(path.parent, prefix)
    try:
        yield place
    finally:
        _remove(place, handle)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        place = Path(tempfile.mkdtemp(prefix=prefix, suffix=TEMPORARY, dir=parent))
        try:
            handle = os.open(place / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # taken for a leftover between the two lines above
        except OSError:
            place.rmdir()
            raise
        if locks.try_lock(handle) is not False and locks.is_still(handle, place / LOCK):
            return place, handle
        os.close(handle)  # the same, a little later


def _remove(place: Path, handle: int) -> None:
    """The lock goes last: without it a folder is nobody's."""
    with suppress(OSError):
        for path in [path for path in place.iterdir() if path.name != LOCK]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()
    locks.let_go(handle, place / LOCK)
    with suppress(OSError):
        place.rmdir()


def is_leftover(path: Path) -> bool:
    """Whether ``path`` has the name of what lies beside a file while it is written: the new one, or a lock."""
    return _LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(folder: Path, prefix: str = ".") -> None:
    """Remove from ``folder`` what killed processes left there under names that begin with ``prefix``.

    What is being written stays, and so do links, which nobody writes.
    """
    with suppress(OSError):
        found = [path for path in folder.iterdir() if path.name.startswith(prefix) and is_leftover(path)]
        for path in [path for path in found if not path.is_symlink()]:
            with suppress(OSError):
                _remove_if_free(path)


def _remove_if_free(path: Path) -> None:
    is_folder = path.is_dir()
    try:
        handle = os.open(path / LOCK if is_folder else path, os.O_RDWR)
    except FileNotFoundError:  # of a writer that has not locked it yet: empty; or that was killed while removing it
        if next(path.iterdir(), None) is None:
            path.rmdir()
        else:
            shutil.rmtree(path, ignore_errors=True)
        return
    free = locks.try_lock(handle)
    if free is False or (free is None and time.time() - os.fstat(handle).st_mtime < STALE_SECONDS):
        os.close(handle)
    elif is_folder:
        _remove(path, handle)
    else:
        locks.let_go(handle, path)
