"""What a call costs the host, and how many kernels it launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from benchmarks.borrowed import races_cache, races_hetero, races_p_laplacian
from benchmarks.borrowed.child import Child, main
from benchmarks.borrowed.timer import host_microseconds, kernels_of
from benchmarks.rivals import cache_retrieval, hetero_aggregate, p_laplacian

CALLS = 200


def calls(dry: bool) -> dict[str, Callable[[], object]]:
    cache = cache_retrieval.Case((races_cache.DRY if dry else races_cache.SHAPES)["6x12x8" if dry else "256x1600x512"])
    graph = hetero_aggregate.Case(8 if dry else 100, 8 if dry else 64)
    nodes = p_laplacian.Case(*(races_p_laplacian.DRY if dry else races_p_laplacian.SHAPES)[
        "1x12x3x5, d=2" if dry else "8x12x40x40, d=8"])  # fmt: skip
    shape = f"{len(cache.queries)}x{len(cache.keys)}x{cache.keys.shape[1]}"
    queries, keys = cache.queries.clone().requires_grad_(), cache.keys.clone().requires_grad_()
    hetero = races_hetero.of_sources(graph.ours, graph.weights)
    return {
        f"cache_retrieval {shape}": lambda: cache.ours(cache.queries, cache.keys),
        f"cache_retrieval {shape}, eager": lambda: cache.eager(cache.queries, cache.keys),
        f"cache_retrieval {shape}, forward and backward": lambda: torch.autograd.grad(
            cache.ours(queries, keys), [queries, keys], cache.grad
        ),
        f"hetero_aggregate C={graph.classes}": lambda: hetero(*graph.sources),
        f"p_laplacian {list(nodes.attention.shape)}": lambda: p_laplacian.ours(*nodes.probabilities()),
    }


def run(child: Child) -> None:
    torch.set_default_device(child.device)
    torch.manual_seed(0)
    nothing = host_microseconds(torch.ops.vlmadapt.active_isa, 500)
    child.note("an operator without tensors, host", round(nothing, 2), "us")
    for name, call in calls(child.dry).items():
        child.note(f"{name}, host", round(host_microseconds(call, 5 if child.dry else CALLS), 1), "us")
        launched = kernels_of(call)
        names = ", ".join(f"{kernel} x{times}" for kernel, times in Counter(launched).items())
        child.note(f"{name}, launches", len(launched), names[:300])


if __name__ == "__main__":
    main(run)
