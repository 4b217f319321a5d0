"""Checks shared by the readers of files that list pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vlmadapt.data.types import Sample
from vlmadapt.errors import FileError


def require_files(listing: str | Path, samples: Iterable[Sample]) -> None:
    """Raise :class:`FileError` naming the first picture of ``listing`` that is not on the disk."""
    missing = [sample.path for sample in samples if not sample.path.is_file()]
    if missing:
        raise FileError(
            f"{listing} lists {len(missing)} picture(s) that are not there, first {missing[0]}: restore them or "
            "run `vlmadapt data check` for the whole list."
        )
