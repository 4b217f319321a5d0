"""Progress of long work: a live bar on a terminal, plain lines when the output is piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")

PLAIN_LINE_SECONDS = 10.0


def track(items: Iterable[Item], label: str, total: int | None = None, enabled: bool = True) -> Iterator[Item]:
    """Yield ``items`` while showing how many are done.

    ``total`` defaults to ``len(items)`` where it is known. Progress goes to standard error, so that piped
    results stay clean; off a terminal one plain line is printed at most every ten seconds.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not enabled:
        yield from items
    elif sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total, leave=False, dynamic_ncols=True)
    else:
        yield from _plain_lines(items, label, total)


def _plain_lines(items: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_LINE_SECONDS:
            last = now
            print(f"{label}: {done}/{total}" if total else f"{label}: {done}", file=sys.stderr, flush=True)
