"""Which run this is: what it is known by, how it differs from another, and the name of its folder."""

from __future__ import annotations

import hashlib
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LONGEST = 80  # bytes of a label in a file's name


class Difference(NamedTuple):
    """The first entry in which two runs differ: ``key`` by dots, and what it ``was`` and ``is_`` now."""

    key: str
    was: Any
    is_: Any

    def __str__(self) -> str:
        return f"{self.key} was {reprlib.repr(self.was)}, is {reprlib.repr(self.is_)}"


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Difference | None:
    """None when two runs are the same. Both are plain JSON; an absent entry equals one that is None."""
    before, now = dict(_flatten(stored)), dict(_flatten(wanted))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            return Difference(key, before.get(key), now.get(key))
    return None


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _flatten(entry, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", entry


def file_name(label: str) -> str:
    """A name for ``label`` that any file system takes and no other label has, nor one that differs in case alone.

    Small letters a to z, digits and ``_ . = -`` stay; a label with anything else, or too long a one, ends in ``~`` and
    its hash.
    """
    if len(label) <= LONGEST and re.fullmatch(r"[a-z0-9_=-]([a-z0-9_.=-]*[a-z0-9_=-])?", label):
        return label
    # Bytes of a command line that are no text have no UTF-8 either.
    clean = file_name_of_0_1_0(label).encode()[:LONGEST].decode(errors="ignore").strip(".")
    return f"{clean}~{hashlib.sha256(label.encode(errors='surrogatepass')).hexdigest()[:12]}"


def file_name_of_0_1_0(label: str) -> str:
    """What 0.1.0 called the folder of ``label``: several labels may share it."""
    return re.sub(r"[^\w.=-]+", "-", label)
