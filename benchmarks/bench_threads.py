"""Every operator on one thread and on two: ``make bench``.

Forward and backward at the large shape of each, ours and the best eager form. Compare within a group, as ratios; what
the second thread gives is ours at one thread over ours at two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks import bench_cache_retrieval, bench_hetero_aggregate, bench_p_laplacian, timing


def cache_retrieval(rival: str) -> Callable[[], object]:
    case = bench_cache_retrieval.Case(bench_cache_retrieval.SHAPES[bench_cache_retrieval.LARGE])
    inputs = [case.queries.requires_grad_(), case.keys.requires_grad_()]
    return lambda: torch.autograd.grad(case.rival(rival)(*inputs), inputs, case.grad)


def hetero_aggregate(rival: str) -> Callable[[], object]:
    case = bench_hetero_aggregate.Case(1000)
    sources = [source.requires_grad_() for source in case.sources]
    function = case.function("torch_sparse" if rival == "eager" else rival)
    return lambda: torch.autograd.grad(function(sources, case.weights), sources, case.grad)


def p_laplacian(rival: str) -> Callable[[], object]:
    shape = bench_p_laplacian.SHAPES[bench_p_laplacian.LARGE]
    return bench_p_laplacian.step_of(bench_p_laplacian.Case(*shape), "probabilities", rival, True)


STEPS = {step.__name__: step for step in (cache_retrieval, hetero_aggregate, p_laplacian)}


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rival", ["ours", "eager"])
@pytest.mark.parametrize("operation", list(STEPS))
def test_threads(benchmark: Any, operation: str, threads: int, rival: str) -> None:
    """Of hetero_aggregate the eager form is torch.sparse."""
    benchmark.group = f"threads | forward + backward, {operation} | {threads} thread{'s' * (threads > 1)}"
    timing.run(benchmark, STEPS[operation](rival))
