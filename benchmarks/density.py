"""From which share of all pairs on is a product faster than the sparse kernel? Both routes of hetero_aggregate.

    python -m benchmarks.density [--threads N] [--width 512]

One relation of as many targets as sources, both routes in turn, forward and with the gradients of sources and weights;
ratios are the sparse kernel's time over the product's. The last column is the share at which both would take as long,
if the kernel's time grew with it and the product's did not. The thresholds, CPU_DENSITY and CPU_DENSITY_TRAINED, are in
``vlmadapt/ops/hetero_aggregate/route.py``; ``benchmarks/bench_density.py`` asks whether the route they choose is good.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vlmadapt.ops import Relation, hetero_aggregate
from vlmadapt.ops.hetero_aggregate.route import Route

SIZES = (100, 300, 1000, 2000)
DENSITIES = (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROUTES: tuple[Route, ...] = ("sparse", "dense")
TYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
SECONDS = 0.4  # a measurement, of both routes together
ROUNDS = (5, 200)


class Problem:
    """One relation with as many columns a row, none twice, and what a call needs."""

    def __init__(self, size: int, density: float, width: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        each = max(round(size * density), 1)
        columns = torch.rand(size, size, generator=generator).argsort(1)[:, :each].sort(1)[0].int()
        self.relation = Relation(torch.arange(size + 1) * each, columns.reshape(-1), size)
        self.density = each / size
        self.source = torch.randn(size, width, generator=generator).to(dtype)
        self.weights = torch.randn(size * each, generator=generator)
        self.grad = torch.randn(size, width, generator=generator).to(dtype)

    def call(self, route: Route, trained: bool) -> Callable[[], object]:
        """The forward of frozen weights, or forward and backward of trained ones."""
        leaves = [tensor.detach().clone().requires_grad_(trained) for tensor in (self.source, self.weights)]

        def forward() -> Tensor:
            return hetero_aggregate([leaves[0]], [self.relation], [leaves[1]], route=route)

        return (lambda: torch.autograd.grad(forward(), leaves, self.grad)) if trained else forward


def fastest(calls: list[Callable[[], object]]) -> list[float]:
    """Milliseconds, the calls in turn; the least of each, for other work of the machine only adds."""
    for call in calls:
        call()
    start = time.perf_counter()
    for call in calls:
        call()
    rounds = int(SECONDS / (time.perf_counter() - start))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(min(max(rounds, ROUNDS[0]), ROUNDS[1])):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            own.append(1000 * (time.perf_counter() - start))
    return [min(own) for own in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--type", choices=TYPES, default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, width {options.width}, {options.type}")
    print("| size | share of pairs | | sparse, ms | dense, ms | ratio | even at |\n|---|---|---|---|---|---|---|")
    for size in options.sizes:
        for density in DENSITIES:
            problem = Problem(size, density, options.width, TYPES[options.type])
            for trained in (False, True):
                sparse, dense = fastest([problem.call(route, trained) for route in ROUTES])
                what = "forward + backward" if trained else "forward"
                even = problem.density * dense / sparse
                print(f"| {size} | {problem.density:.2f} | {what} | {sparse:.3f} | {dense:.3f} "
                      f"| {sparse / dense:.2f} | {even:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
