"""cache_retrieval against its rivals: ``make bench``.

Rivals, all on the same tensors in the same run: a bare sgemm of the same products (the ceiling), the released
Tip-Adapter form (one-hot product), the best eager form (``view.sum`` for sorted balanced classes, ``index_add``
for ragged ones), ``torch.compile`` of it, and the same tiles through BLAS. Compare within a group, as ratios.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from vlmadapt.ops import PreparedCache, cache_retrieval, cache_retrieval_grid

BETA = 5.5
ROOT = Path(__file__).resolve().parent.parent
SHAPES = {
    "Q256_C100_K16_D512": (256, 100, 16, 512),
    "Q1000_C1000_K16_D512": (1000, 1000, 16, 512),
    "Q64_C1000_K16_D1024": (64, 1000, 16, 1024),
    "Q1_C1000_K16_D512": (1, 1000, 16, 512),
    "Q1000_C1000_ragged_D512": (1000, 1000, 0, 512),
}


class Case:
    """One shape's tensors and every rival as a function of queries and keys."""

    def __init__(self, name: str) -> None:
        queries, self.classes, shots, width = SHAPES[name]
        generator = torch.Generator().manual_seed(0)
        if shots:
            self.labels = torch.arange(self.classes).repeat_interleave(shots)
        else:  # one to thirty-one entries a class, unsorted
            sizes = torch.randint(1, 32, (self.classes,), generator=generator)
            labels = torch.arange(self.classes).repeat_interleave(sizes)
            self.labels = labels[torch.randperm(len(labels), generator=generator)]
        self.shots = shots
        self.queries = normalize(torch.randn(queries, width, generator=generator), dim=-1)
        self.keys = normalize(torch.randn(len(self.labels), width, generator=generator), dim=-1)
        self.cache = PreparedCache(self.labels, self.classes)
        self.onehot = one_hot(self.labels, self.classes).float()
        self.grad = torch.randn(queries, self.classes, generator=generator)

    def ours(self, queries: Tensor, keys: Tensor) -> Tensor:
        scores = cache_retrieval(queries, keys, self.cache, BETA)
        assert isinstance(scores, Tensor)
        return scores

    def released(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (-1 * (BETA - BETA * (queries @ keys.T))).exp() @ self.onehot

    def eager(self, queries: Tensor, keys: Tensor) -> Tensor:
        affinity = torch.exp(BETA * (queries @ keys.T) - BETA)
        if self.shots:
            return affinity.view(len(queries), self.classes, self.shots).sum(-1)
        return affinity.new_zeros(len(queries), self.classes).index_add(1, self.labels, affinity)

    def blas_tiles(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The products of 2,048 sorted keys at a time through BLAS into one reused buffer."""
        order, offsets = self.cache.order, self.cache.offsets
        sorted_keys, sorted_labels = keys[order], self.labels[order]
        scores = queries.new_zeros(len(queries), self.classes)
        buffer = queries.new_empty(len(queries), 2048)
        for start in range(0, int(offsets[-1]), 2048):
            block = sorted_keys[start : start + 2048]
            tile = torch.mm(queries, block.T, out=buffer[:, : len(block)])
            scores.index_add_(1, sorted_labels[start : start + 2048], tile.sub_(1).mul_(BETA).exp_())
        return scores


@pytest.fixture(scope="module", params=list(SHAPES))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def run(benchmark: Callable[..., object], function: Callable[[], object]) -> None:
    benchmark.pedantic(function, warmup_rounds=2, rounds=9, iterations=1)  # type: ignore[attr-defined]


@pytest.mark.benchmark(group="forward")
@pytest.mark.parametrize("rival", ["ours", "released", "eager", "compiled", "blas_tiles", "sgemm"])
def test_forward(benchmark: Callable[..., object], case: Case, rival: str, request: pytest.FixtureRequest) -> None:
    benchmark.group = f"forward {request.node.callspec.params['case']}"  # type: ignore[attr-defined]
    if rival == "sgemm":
        product = torch.empty(len(case.queries), len(case.keys))
        run(benchmark, lambda: torch.mm(case.queries, case.keys.T, out=product))
        return
    function = torch.compile(case.eager, dynamic=False) if rival == "compiled" else getattr(case, rival)
    expected = case.released(case.queries, case.keys)
    torch.testing.assert_close(function(case.queries, case.keys), expected, rtol=1e-4, atol=1e-4)
    run(benchmark, lambda: function(case.queries, case.keys))


@pytest.mark.benchmark(group="backward")
@pytest.mark.parametrize("rival", ["ours", "released", "eager", "compiled"])
def test_forward_and_backward(
    benchmark: Callable[..., object], case: Case, rival: str, request: pytest.FixtureRequest
) -> None:
    benchmark.group = f"forward+backward {request.node.callspec.params['case']}"  # type: ignore[attr-defined]
    function = torch.compile(case.eager, dynamic=False) if rival == "compiled" else getattr(case, rival)
    queries, keys = case.queries.clone().requires_grad_(), case.keys.clone().requires_grad_()

    def step() -> None:
        torch.autograd.grad(function(queries, keys), [queries, keys], case.grad)

    run(benchmark, step)


@pytest.mark.parametrize("rival", ["ours_200x20_cells", "released_1_cell"])
def test_grid(benchmark: Callable[..., object], rival: str) -> None:
    """The whole search in one pass, against one of the 4,000 cells that the exhaustive loop visits."""
    benchmark.group = "grid of 200 betas x 20 alphas, Q1000_C1000_K16_D512"  # type: ignore[attr-defined]
    case = Case("Q1000_C1000_K16_D512")
    betas, alphas = torch.linspace(0.5, 20, 200), torch.linspace(0.1, 10, 20)
    base, targets = case.grad, torch.arange(len(case.queries)) % case.classes

    def search() -> Tensor:
        return cache_retrieval_grid(case.queries, case.keys, case.cache, betas, alphas, base, targets)

    def cell() -> Tensor:
        return (base + alphas[0] * case.released(case.queries, case.keys)).argmax(-1) == targets

    run(benchmark, search if rival.startswith("ours") else cell)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("rival", ["ours", "released", "eager"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_memory(
    benchmark: Callable[..., object], rival: str, backward: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Extra resident memory of one call at Q1000_C1000_K16_D512, in MiB: printed and kept in ``extra_info``.

    In a process of its own: in this one, earlier calls have left heap behind that a later one would use again.
    """
    benchmark.group = "memory Q1000_C1000_K16_D512 (the time is that of a whole process)"  # type: ignore[attr-defined]
    code = f"from benchmarks.bench_cache_retrieval import extra_mib; print(extra_mib({rival!r}, {backward}))"
    command = [sys.executable, "-c", code]
    outputs: list[str] = []
    benchmark.pedantic(  # type: ignore[attr-defined]
        lambda: outputs.append(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout),
        rounds=1,
        iterations=1,
    )
    extra = float(outputs[0])
    benchmark.extra_info["extra_mib"] = extra  # type: ignore[attr-defined]
    with capsys.disabled():
        print(f"  {rival}{', forward + backward' if backward else ''}: {extra:.0f} MiB extra")


def extra_mib(rival: str, backward: bool) -> float:
    case = Case("Q1000_C1000_K16_D512")
    queries, keys = case.queries.requires_grad_(backward), case.keys.requires_grad_(backward)
    getattr(case, rival)(queries[:8], keys)  # loads code and starts threads; a whole call would leave its memory behind
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    scores = getattr(case, rival)(queries, keys)
    if backward:
        torch.autograd.grad(scores, [queries, keys], case.grad)
    return (resident("VmHWM") - before) / 1024


def resident(field: str) -> int:
    """A field of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])
