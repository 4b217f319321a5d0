"""Batches in order, threads or not, and nothing begun after an error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vlmadapt.pictures import encode


def row(number):
    return torch.tensor([float(number), 1.0])


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 23])
def test_every_item_once_and_in_order(threads, count):
    sizes = []

    def tower(pixels):
        sizes.append(len(pixels))
        return 2 * pixels

    pool = ThreadPoolExecutor(threads) if threads else None
    batches = list(encode(range(count), row, tower, batch=4, pool=pool))
    assert [value for batch in batches for value in batch[:, 0].tolist()] == [2.0 * number for number in range(count)]
    assert sizes == [4] * (count // 4) + [count % 4] * (count % 4 > 0)


def test_threads_load_at_most_two_batches_ahead():
    begun = []

    def load(number):
        begun.append(number)
        return row(number)

    with ThreadPoolExecutor(2) as pool:
        batches = encode(range(100), load, lambda pixels: pixels, batch=4, pool=pool)
        next(batches)
        batches.close()
    assert 4 <= len(begun) <= 12


@pytest.mark.parametrize("where", ["load", "tower"])
def test_after_an_error_nothing_more_is_begun(where):
    begun, gate = [], threading.Event()

    def load(number):
        begun.append(number)
        if where == "load" and number == 0:
            raise ValueError("broken")
        if number >= 4:
            gate.wait(10)  # holds the only thread, so that what follows waits in line
        return row(number)

    def tower(pixels):
        raise ValueError("broken")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="broken") as caught:  # held, as the error's frames hold the generators
            list(encode(range(100), load, tower, batch=4, pool=pool))
        gate.set()
    assert len(begun) <= 6 and caught.type is ValueError
