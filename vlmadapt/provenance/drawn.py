"""The mark of pictures that this package drew: only those may be replaced by others."""

from __future__ import annotations

import os
from pathlib import Path

from vlmadapt.errors import FileError
from vlmadapt.files import open_file

MARK = "drawn by vlmadapt"
# What matplotlib writes into a file of each format; without a date, so that equal drawings are equal files.
METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": MARK},
    "svg": {"Date": None, "Creator": MARK},
}
START = 4096  # bytes, among which it stands


def refuse_other_picture(path: Path, option: str) -> None:
    """Raise :class:`FileError` where a file lies at ``path`` that this package has not drawn: it would be lost."""
    if os.path.isfile(path):
        with open_file(path) as stream:
            start = stream.read(START)
        if MARK.encode() not in start:
            raise FileError(f"{path} exists and was not drawn by vlmadapt: name another file with {option}.")
