"""hetero_aggregate and the factorised signed cosine against their rivals: ``make bench``.

Six relations from three node types into one, the 64 strongest edges a target (all of them for fewer classes), width
512. Rivals, all on the same tensors in the same run: ``torch.sparse`` CSR products added up, gathering the source rows
and ``index_add``, ``torch.compile`` of that, and PyG's HeteroConv of weighted sums (no attention). ``copy`` reads and
writes as many bytes as the edges name, in order: what a machine without caches could not beat. Compare within a group,
as ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.exact import record_error
from benchmarks.rivals.hetero_aggregate import EDGES, RELATIONS, WIDTH, Case
from vlmadapt.ops import signed_cosine_aggregate, signed_cosine_reference

CLASSES = [100, 1000, 21000]
LARGEST = CLASSES[-1]
RIVALS = ["ours", "torch_sparse", "gather", "compiled", "pyg"]
EDGES_OF_A_TARGET = [1, 4, 16, 64, 256]  # of each relation, for the curve


@pytest.fixture(scope="module", params=CLASSES, ids=lambda classes: f"C{classes}")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rival", [*RIVALS, "copy"])
def test_forward(benchmark: Any, case: Case, rival: str) -> None:
    benchmark.group = f"hetero_aggregate | forward | C{case.classes}"
    if rival == "copy":
        edges = len(case.columns[0]) * RELATIONS
        block = torch.empty(min(edges, 1 << 18), WIDTH)  # 512 MiB at most, several times over
        target = torch.empty_like(block)
        timing.run(benchmark, lambda: [target.copy_(block) for _ in range(-(-edges // (2 * len(block))))])
        return
    function = case.function(rival)
    if case.classes != LARGEST:
        expected = case.ours(case.sources, case.weights)
        torch.testing.assert_close(function(case.sources, case.weights), expected, rtol=1e-4, atol=1e-3)
    timing.run(benchmark, lambda: function(case.sources, case.weights))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("trained", ["sources", "sources and weights"])
def test_forward_and_backward(benchmark: Any, case: Case, rival: str, trained: str) -> None:
    benchmark.group = f"hetero_aggregate | forward + backward, {trained} | C{case.classes}"
    if case.classes == LARGEST and (trained != "sources" or rival == "gather"):
        pytest.skip("the rivals hold gigabytes for minutes; of gathering, torch.compile's form is the faster")
    sources = [source.clone().requires_grad_() for source in case.sources]
    weights = [weight.clone().requires_grad_(trained != "sources") for weight in case.weights]
    function = case.function(rival)
    leaves = [leaf for leaf in (*sources, *weights) if leaf.requires_grad]

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(sources, weights), leaves, case.grad)

    if case.classes != LARGEST:
        expected = torch.autograd.grad(case.ours(sources, weights), leaves, case.grad)
        record_error(benchmark, step(), expected, 1e-4)
    timing.run(benchmark, step)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rival", ["ours_factorised", "dense"])
def test_signed_cosine(benchmark: Any, rival: str) -> None:
    benchmark.group = f"signed_cosine | forward | C{LARGEST}_D{WIDTH}"
    timing.run(benchmark, signed_cosine_call(rival), rounds=5)


@timing.needs_proc
@pytest.mark.parametrize("edges", EDGES_OF_A_TARGET)
@pytest.mark.parametrize("rival", ["ours", "torch_sparse", "pyg"])
def test_scaling(benchmark: Any, rival: str, edges: int) -> None:
    """Time and extra memory of a forward against the number of edges; sources and targets stay the same."""
    if rival == "pyg" and edges > EDGES:
        pytest.skip("a gigabyte and seconds a call, and nothing new to see")
    benchmark.group = "hetero_aggregate | scaling, C1000"
    case = Case(1000, edges)
    timing.run(benchmark, lambda: case.function(rival)(case.sources, case.weights), rounds=5)
    mib = timing.in_a_process(__name__, f"memory_of({rival!r}, False, module.Case(1000, {edges}))")
    benchmark.extra_info |= {
        "x": RELATIONS * 1000 * edges,
        "x_name": "edges",
        "slope": 1,
        "memory_slope": 0,
        "mib": max(mib, 0.05),
    }


@timing.needs_proc
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rival", ["ours", "torch_sparse", "gather"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward + backward"])
def test_memory(benchmark: Any, rival: str, backward: bool) -> None:
    """The gradients are those of the sources."""
    if rival == "gather" and backward:
        pytest.skip("it would take minutes and ten gigabytes or more")
    benchmark.group = f"hetero_aggregate | memory, forward{' + backward' if backward else ''} | C{LARGEST}"
    timing.record_memory(benchmark, __name__, f"memory({rival!r}, {backward})")


@timing.needs_proc
@pytest.mark.parametrize("rival", ["ours_factorised", "dense"])
def test_signed_cosine_memory(benchmark: Any, rival: str) -> None:
    benchmark.group = f"signed_cosine | memory, forward | C{LARGEST}_D{WIDTH}"
    timing.record_memory(benchmark, __name__, f"signed_cosine_memory({rival!r})")


def memory(rival: str, backward: bool) -> float:
    return memory_of(rival, backward, Case(LARGEST))


def memory_of(rival: str, backward: bool, case: Case) -> float:
    small = Case(100)
    small.function(rival)(small.sources, small.weights)  # loads code and starts threads
    sources = [source.requires_grad_(backward) for source in case.sources]

    def call() -> object:
        out = case.function(rival)(sources, case.weights)
        return torch.autograd.grad(out, sources, case.grad) if backward else out

    return timing.extra_mib(call)


def signed_cosine_call(rival: str) -> Callable[[], Tensor]:
    generator = torch.Generator(device=timing.device()).manual_seed(0)
    targets, sources, features = (torch.randn(LARGEST, WIDTH, generator=generator) for _ in range(3))
    if rival == "ours_factorised":
        return lambda: signed_cosine_aggregate(targets, sources, features, diagonal="negate")
    return lambda: signed_cosine_reference(targets, sources, diagonal="negate") @ features


def signed_cosine_memory(rival: str) -> float:
    call = signed_cosine_call(rival)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # loads code and starts threads
    return timing.extra_mib(call)
