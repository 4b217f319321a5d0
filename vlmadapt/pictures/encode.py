"""Many pictures through an image tower, batch by batch: the one way from pictures to features."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from contextlib import closing
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
BATCH = 64


def encode(
    items: Iterable[Item],
    load: Callable[[Item], Tensor],
    tower: Callable[[Tensor], Tensor],
    batch: int = BATCH,
    pool: Executor | None = None,
) -> Generator[Tensor, None, None]:
    """Yield ``tower(pixels)`` of each ``batch`` items in turn, ``pixels`` being their stacked ``load(item)``.

    load: one item to a tensor [...], all of one shape; it opens pictures with :func:`vlmadapt.pictures.read`.
    tower: a tensor [b, ...] to whatever it makes of a batch.
    pool: threads that load up to two batches ahead of the tower; without it, items are loaded in turn.

    What ``load`` and ``tower`` raise is passed on, and nothing more is begun.
    """
    with closing(_loaded(items, load, 2 * batch, pool)) as loaded:
        while rows := list(islice(loaded, batch)):
            pixels = torch.stack(rows)
            del rows  # not held twice while the tower runs
            yield tower(pixels)


def _loaded(
    items: Iterable[Item], load: Callable[[Item], Tensor], ahead: int, pool: Executor | None
) -> Generator[Tensor, None, None]:
    if pool is None:
        yield from map(load, items)
        return
    remaining = iter(items)
    waiting: deque[Future[Tensor]] = deque(pool.submit(load, item) for item in islice(remaining, ahead))
    try:
        while waiting:
            row = waiting.popleft().result()
            waiting.extend(pool.submit(load, item) for item in islice(remaining, 1))
            yield row
    finally:
        for future in waiting:
            future.cancel()
