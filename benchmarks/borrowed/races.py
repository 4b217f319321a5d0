"""Times by operator: ``python -m benchmarks.borrowed.races ... cache | hetero | p_laplacian | backward | grid``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks.borrowed import races_cache, races_hetero, races_p_laplacian
from benchmarks.borrowed.child import Child, main
from benchmarks.borrowed.race import Race, run_races


def backward(dry: bool) -> Iterator[Race]:
    yield from races_cache.backward(dry)
    yield from races_p_laplacian.backward(dry)
    yield from races_hetero.backward(dry)


KINDS: dict[str, Callable[[bool], Iterator[Race]]] = {
    "cache": races_cache.forward,
    "hetero": races_hetero.forward,
    "p_laplacian": races_p_laplacian.forward,
    "backward": backward,
    "grid": races_cache.grid,
}


def run(child: Child) -> None:
    torch.set_default_device(child.device)
    torch.manual_seed(0)
    run_races(child, KINDS[child.more[0]])


if __name__ == "__main__":
    main(run)
