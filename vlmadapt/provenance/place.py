"""Where results go: one run at a time in a folder, of one data set and encoder, checked before the work begins. Ours.

The rules, which docs/cli.md tells users:

* a folder belongs to one run while it works: :func:`hold`, a lock that ends with the process;
* a folder is of one run: another kind, data set, encoder or other settings are refused (:meth:`Place.claim`);
* what is there can be written is known before the work: so far as creating, writing and flushing a file tells;
* leftovers of killed runs are removed by the next one that holds the folder, and nothing else is;
* what all runs share in the cache is made by one, and the others wait for it: :func:`make_once`.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vlmadapt import locks
from vlmadapt.atomic import is_leftover, remove_leftovers
from vlmadapt.errors import FileError, InputError
from vlmadapt.provenance.about import ABOUT, About, about_of

LOCK = ".vlmadapt.lock"
PROBE = b"\0" * 65536
OF_THE_SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini"}
INNER = ("checkpoints", "fits", "classifier")  # folders of a run that leftovers may lie in
BEGUN = "vlmadapt_begun"  # an attribute of an interruption
OTHER = "choose another folder with --out"
ELSEWHERE = "choose another place with --out"
PAUSE = 0.5  # seconds between two looks at what another process makes
_held = threading.local()


class Busy(InputError):
    """Another process or thread, ``owner``, holds what was asked for."""

    def __init__(self, what: Path, owner: str) -> None:
        super().__init__(f"{what} is being written by {owner}: wait until that has ended, or {ELSEWHERE}.")
        self.owner = owner


@dataclass
class Place:
    """A folder that is held; ``begun`` tells whether this run has made it its own, so that it can go on there."""

    folder: Path
    begun: bool = False

    def is_empty(self) -> bool:
        """Whether nothing but leftovers of ours and of the system lies here."""
        return all(_is_nothing(path) for path in self.folder.iterdir())

    def claim(self, about: About, overwrite: bool = False, writes: Sequence[str] = ()) -> About | None:
        """What the folder is of already, None when of nothing; its leftovers are removed.

        Raises :class:`InputError` when it is of another run than ``about`` and ``overwrite`` does not allow to replace
        it, in any case when the other run is of another kind, and when it is of none but holds a file of ``writes``.
        """
        for folder in (self.folder, *(path for name in INNER for path in _tree(self.folder / name))):
            remove_leftovers(folder)
        found = None if self.is_empty() else about_of(self.folder)
        if found is not None:
            asked = About(about.kind) if overwrite else about
            asked.refuse_other(found, self.folder, f"{OTHER}, or pass --overwrite to replace it")
        for name in writes if found is None else ():
            if (self.folder / name).exists():
                raise InputError(f"{self.folder} holds a {name} that no run wrote: {OTHER}.")
        return found

    def claim_results(
        self, about: About, overwrite: bool, writes: Sequence[str], lost: Callable[[], Sequence[str]]
    ) -> bool:
        """:meth:`claim` for a run whose results may be replaced; returns whether it was asked to replace others.

        ``lost`` names the fits of the results that lie here which the new run would not have. Raises
        :class:`InputError` as :meth:`claim` does, and when fits would be lost, unless ``overwrite``.
        """
        found = self.claim(about, overwrite, writes)
        if found is None or not (self.folder / "results.json").exists():
            return False
        if overwrite or found.replacing:
            return True
        gone = lost()
        if gone:
            raise InputError(
                f"{self.folder} holds results of {len(gone)} fits that this run would not have, {gone[0]} the first: "
                f"ask for these too, {OTHER}, or pass --overwrite to replace them."
            )
        return False

    def begin(self, about: About, replacing: bool = False) -> None:
        """Say what the folder is of, from now on. Raises :class:`FileError` where that cannot be written."""
        replace(about, replacing=replacing).write(self.folder)
        self.begun = True


def _tree(folder: Path) -> list[Path]:
    return [folder, *(path for path in folder.rglob("*") if path.is_dir())] if folder.is_dir() else []


def _is_nothing(path: Path) -> bool:
    return path.name in OF_THE_SYSTEM | {LOCK, ABOUT} or is_leftover(path)


@contextmanager
def hold(folder: str | Path) -> Iterator[Place]:
    """Keep every other run out of ``folder`` inside the block, and make it where it is not there.

    A thread that holds it already gets the same place again. A folder that was made and stays empty is removed. An
    interruption takes along whether the run has begun there (:func:`has_begun`).
    Raises :class:`InputError` when another process or thread holds it, :class:`FileError` when it cannot be written.
    """
    folder = Path(folder)
    mine: dict[str, Place] = _held.__dict__.setdefault("places", {})
    key = os.path.realpath(folder)
    if key in mine:
        yield mine[key]
        return
    with _making(folder), _locked(folder, folder / LOCK):
        mine[key] = Place(folder)
        try:
            yield mine[key]
        except KeyboardInterrupt as stop:
            setattr(stop, BEGUN, mine[key].begun)
            raise
        finally:
            place = mine.pop(key)
            with suppress(OSError):
                if place.is_empty():
                    (folder / ABOUT).unlink(missing_ok=True)


def has_begun(stop: KeyboardInterrupt) -> bool:
    """Whether the run that was interrupted had made its folder its own, so that it can go on there."""
    return getattr(stop, BEGUN, False)


@contextmanager
def hold_file(path: str | Path, option: str = "--out") -> Iterator[None]:
    """As :func:`hold`, for a single file that is written into a folder of others; ``option`` names it.

    Raises :class:`FileError` when ``path`` is a folder or cannot be written, :class:`InputError` when it is held.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise FileError(f"{path} is a folder: name a file to write with {option}.")
    with _making(path.parent), _locked(path, _beside(path)):
        yield


def make_once(
    path: Path, ready: Callable[[], bool], make: Callable[[], object], report: Callable[[str], None] | None = None
) -> None:
    """``make`` what all processes share at ``path`` unless it is ``ready``; one that another is making is waited for.

    report: called with a line before waiting. Raises :class:`FileError` when ``path`` cannot be written.
    """
    remove_leftovers(path.parent)
    waiting = False
    while not ready():
        try:
            with _locked(path, _beside(path), "choose another cache folder with VLMADAPT_CACHE"):
                if not ready():
                    make()
        except Busy as busy:
            if report is not None and not waiting:
                report(f"{path} is being made by {busy.owner}: waiting for that")
            waiting = True
            time.sleep(PAUSE)


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name[:48]}.vlmadapt.lock"


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    """Remove ``folder`` and those above it after the block, as far as they were made in it and stayed empty."""
    made = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


@contextmanager
def _writing(what: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{what} cannot be written ({reason}): make room or {way_out}.") from error


@contextmanager
def _locked(what: Path, lock: Path, way_out: str = ELSEWHERE) -> Iterator[None]:
    handle = _open_locked(what, lock, way_out)
    try:
        with _writing(what, way_out):
            os.ftruncate(handle, 0)
            with open(handle, "wb", closefd=False) as stream:
                stream.write(json.dumps({"process": os.getpid(), "computer": platform.node()}).encode() + PROBE)
            os.fsync(handle)
        yield
    finally:
        locks.let_go(handle, lock)


def _open_locked(what: Path, lock: Path, way_out: str) -> int:
    """A handle of the locked file ``lock``. One that a killed process left is nobody's lock and is taken over."""
    while True:
        with _writing(what, way_out):
            handle = _open(lock)
        locked = locks.try_lock(handle)
        if locked is None:
            warnings.warn(
                f"{what} lies on a file system without locks: run nothing else into it meanwhile.", stacklevel=5
            )
            return handle
        if not locked:
            owner = _owner(handle)
            os.close(handle)
            raise Busy(what, owner)
        if locks.is_still(handle, lock):
            return handle
        os.close(handle)  # its owner removed it between the two lines above


def _open(lock: Path, patience: int = 100) -> int:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        # A link that came with the folder is not followed: the lock's content would replace that of another file.
        return os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except (FileNotFoundError, FileExistsError):  # the second from mkdir, where the folder went while it looked
        if not patience:
            raise
    return _open(lock, patience - 1)  # another run has just removed the folder, which it had made and left empty


def _owner(handle: int) -> str:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        value = json.loads(os.read(handle, 4096).rstrip(b"\0"))
        process, computer = value["process"], value["computer"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return "another process"
    if computer != platform.node():
        return f"process {process} on {computer}"
    return "another call in this process" if process == os.getpid() else f"process {process}"
