"""What the readers of files that list pictures share: where a listed path points, and whether it is there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vlmadapt.data.names import is_utf8
from vlmadapt.data.types import Sample
from vlmadapt.errors import FileError, InputError, shown


def picture_path(listing: Path, folder: Path, listed: str) -> Path:
    """Where a path of ``listing``, from ``folder``, points: ``~`` is the user's home, an absolute path stays as it is.

    Raises :class:`InputError` for one that is no text, as JSON can hold.
    """
    if not is_utf8(listed) or "\0" in listed:
        raise InputError(f"{listing} lists the file name {listed!r}, which is not UTF-8 text: correct the list.")
    if listed.startswith("~") and not os.path.lexists(folder / listed):
        listed = os.path.expanduser(listed)
    return folder / listed


def require_files(listing: str | Path, samples: Iterable[Sample]) -> None:
    """Raise :class:`FileError` naming the first picture of ``listing`` that is not on the disk."""
    # Unlike Path.is_file, it takes a name too long to exist for one that does not.
    missing = [sample.path for sample in samples if not os.path.isfile(sample.path)]
    if missing:
        raise FileError(
            f"{listing} lists {len(missing)} picture(s) that are not there, first {shown(missing[0])}: restore them or "
            "run `vlmadapt data check` for the whole list."
        )
