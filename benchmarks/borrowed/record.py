"""Results as lines of JSON, each on the disk before the next is measured."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

NAME = "results.jsonl"
Row = dict[str, Any]


class Log:
    """The results of one folder; several processes may write at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / NAME

    def write(self, kind: str, **fields: Any) -> Row:
        """Appends one row. It starts on a line of its own, whatever a killed writer left before it."""
        row = {"kind": kind, "at": round(time.time(), 1), **fields}
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" * torn + json.dumps(row).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return row

    def rows(self, kind: str | None = None) -> list[Row]:
        """What was written so far, of one kind or all; a line that a killed writer tore is left out."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and kind in (None, row.get("kind")):
                found.append(row)
        return found

    def ceilings(self) -> dict[str, float]:
        """TFLOP/s and TB/s that the probe measured, by name."""
        return {row["name"]: row["value"] for row in self.rows("ceiling")}
