"""Walking folders: which pictures there are, and what is left out."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vlmadapt.data.names import is_clutter
from vlmadapt.errors import FileError, naming_file, shown
from vlmadapt.files import read_json
from vlmadapt.pictures import Kind, kind_of

# Files by which folders that this package wrote are known, and a key that each of them holds.
OURS = {
    "run.json": "few_shot_split_hash",
    "unfinished.json": "split_hash",
    "adapter.json": "format_version",
    "identity.json": "split_hash",
    "results.json": "cells",
}
LOST = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)  # of links that lead nowhere


@dataclass
class LeftOut:
    """What a reader leaves out, gathered while it reads.

    notes: sentences about what need not worry anybody. doubts: about what is probably not meant so.
    """

    clutter: list[Path] = field(default_factory=list)
    ours: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def add(self, other: LeftOut) -> None:
        """Take over what another reader left out."""
        for name in ("clutter", "ours", "unread", "notes", "doubts"):
            getattr(self, name).extend(getattr(other, name))

    def note_loose(self, folder: Path, files: Iterable[Path]) -> None:
        """Note the pictures of ``files`` that lie in ``folder`` beside its class folders."""
        kinds = {path: kind_of(path) for path in files}
        self.unread.extend(path for path, kind in kinds.items() if kind is Kind.OTHER)
        loose = [path for path, kind in kinds.items() if kind is Kind.PICTURE]
        if loose:
            self.notes.append(f"{counted(loose, 'picture')} outside the class folders of {shown(folder)} left out")

    def all_notes(self) -> tuple[str, ...]:
        """Every note, those about folders first."""
        found = []
        if self.clutter:
            found.append(f"{counted(self.clutter, 'folder')} of thumbnails or system files left out")
        if self.ours:
            found.append(f"{counted(self.ours, 'folder')} that vlmadapt wrote left out")
        return (*found, *self.notes)

    def all_doubts(self) -> tuple[str, ...]:
        """Every doubt, that about pictures of other formats first."""
        if not self.unread:
            return tuple(self.doubts)
        endings = Counter(path.suffix.lower() or "no ending" for path in self.unread)
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        return (f"{counted(self.unread, 'picture')} of formats that are not read left out ({kinds})", *self.doubts)


def counted(paths: Iterable[Path], thing: str) -> str:
    """``3 folders (first ...)``."""
    listed = sorted(paths)
    plural = "s" * (len(listed) > 1)
    return f"{len(listed)} {thing}{plural} ({'first ' * (len(listed) > 1)}{shown(listed[0])})"


def list_images(folder: Path, left_out: LeftOut | None = None) -> list[Path]:
    """Pictures in ``folder`` and its subfolders, sorted; :func:`vlmadapt.pictures.kind_of` says what is one.

    Hidden files and folders, folders of thumbnails and system files, folders that this package wrote and pictures of
    formats that are not read are left out, and all but the hidden ones gathered in ``left_out``. Links are followed,
    each real folder once. A link that leads nowhere is listed, so that whoever opens it can name it. Raises
    :class:`FileError` for a folder that may not be read.
    """
    return sorted(_walk(folder, {os.path.realpath(folder)}, LeftOut() if left_out is None else left_out))


def _walk(folder: Path, seen: set[str], left_out: LeftOut) -> Iterator[Path]:
    folders, files = scan(folder, left_out)
    for path in files:
        kind = kind_of(path)
        if kind is Kind.PICTURE:
            yield path
        elif kind is Kind.OTHER:
            left_out.unread.append(path)
    for path in folders:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield from _walk(path, seen, left_out)


def scan(folder: Path, left_out: LeftOut) -> tuple[list[Path], list[Path]]:
    """(folders, files) directly in ``folder``, sorted; what is left out goes to ``left_out``, unless it is hidden.

    Raises :class:`FileError` for a folder that may not be read or searched.
    """
    folders, files = [], []
    with naming_file(shown(folder), "read"):
        if not os.access(folder, os.R_OK | os.X_OK):
            raise FileError(f"folder {shown(folder)} may not be read by this user: run chmod u+rx on it, or remove it.")
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
        for entry in entries:
            path = Path(entry.path)
            if not _is_folder(entry):
                if entry.is_symlink() or entry.is_file():  # no pipes or devices
                    files.append(path)
            elif is_clutter(entry.name):
                left_out.clutter.append(path)
            elif is_ours(path):
                left_out.ours.append(path)
            else:
                folders.append(path)
    return folders, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in LOST:
            return False
        raise


def is_ours(folder: Path) -> bool:
    """Whether this package wrote ``folder``: it holds one of its files, with a key that only those have."""
    for name, key in OURS.items():
        path = folder / name
        try:
            if not path.is_file():
                continue
            value = read_json(path)
        except OSError:  # FileError is one
            continue
        if isinstance(value, dict) and key in value:
            return True
    return False


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture in ``folder`` or below it."""
    return next(_walk(folder, {os.path.realpath(folder)}, LeftOut()), None) is not None
