"""cache_retrieval against its rivals: ``make bench``.

Rivals, all on the same tensors in the same run: the released Tip-Adapter form (one-hot product), the best eager form
(``view.sum`` for sorted balanced classes, ``index_add`` for ragged ones), ``torch.compile`` of it, FAISS (only the
search for the nearest key) and KeOps. Ceiling: a bare sgemm of the same products.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.rivals.cache_retrieval import Case
from vlmadapt.ops import cache_retrieval_grid

SHAPES = {
    "Q256_C100_K16_D512": (256, 100, 16, 512),
    "Q1000_C1000_K16_D512": (1000, 1000, 16, 512),
    "Q64_C1000_K16_D1024": (64, 1000, 16, 1024),
    "Q1_C1000_K16_D512": (1, 1000, 16, 512),
    "Q1000_C1000_ragged_D512": (1000, 1000, 0, 512),
}
LARGE = "Q1000_C1000_K16_D512"
KEYS = (1_000, 10_000, 100_000, 1_000_000)
CLASSES = (10, 100, 1_000, 8_000)


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("rival", ["ours", "released", "eager", "compiled", "faiss_top_1", "sgemm"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(benchmark: Any, cases: dict[str, Case], shape: str, rival: str) -> None:
    benchmark.group = f"cache_retrieval | forward | {shape}"
    case = cases[shape]
    queries, keys = case.queries, case.keys
    if rival == "sgemm":
        product = torch.empty(len(queries), len(keys))
        timing.run(benchmark, lambda: torch.mm(queries, keys.T, out=product))
        return
    function = case.rival(rival)
    result = function(queries, keys)
    if rival != "faiss_top_1":
        exact = case.released(queries.double(), keys.double())
        benchmark.extra_info["error"] = ((result - exact).abs().max() / exact.abs().max()).item()
        torch.testing.assert_close(result.double(), exact, rtol=1e-4, atol=1e-4)
    timing.run(benchmark, lambda: function(queries, keys))


@pytest.mark.parametrize("rival", ["ours", "released", "eager", "compiled", "sgemm"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(benchmark: Any, cases: dict[str, Case], shape: str, rival: str) -> None:
    benchmark.group = f"cache_retrieval | forward + backward | {shape}"
    case = cases[shape]
    if rival == "sgemm":  # similarities, and the gradients of queries and keys from them: no form does with less
        product = torch.empty(len(case.queries), len(case.keys))
        outputs = torch.empty_like(case.queries), torch.empty_like(case.keys)

        def three_products() -> None:
            torch.mm(case.queries, case.keys.T, out=product)
            torch.mm(product, case.keys, out=outputs[0])
            torch.mm(product.T, case.queries, out=outputs[1])

        timing.run(benchmark, three_products)
        return
    function = case.rival(rival)
    queries, keys = case.queries.clone().requires_grad_(), case.keys.clone().requires_grad_()
    timing.run(benchmark, lambda: torch.autograd.grad(function(queries, keys), [queries, keys], case.grad))


@pytest.mark.parametrize("rival", ["ours", "released", "keops"])
def test_small_width(benchmark: Any, rival: str) -> None:
    """KeOps is meant for points of a few dimensions: the fairest place to meet it."""
    benchmark.group = "cache_retrieval | forward, D = 16 | Q256_C10_K16"
    case = Case((256, 10, 16, 16))
    function = case.rival(rival)
    torch.testing.assert_close(
        function(case.queries, case.keys), case.released(case.queries, case.keys), rtol=1e-4, atol=1e-4
    )
    timing.run(benchmark, lambda: function(case.queries, case.keys))


@pytest.mark.parametrize("rival", ["ours", "released_extrapolated"])
def test_grid(benchmark: Any, cases: dict[str, Case], rival: str) -> None:
    """The whole search in one pass. Of the exhaustive loop's 4,000 cells one is timed; the page multiplies it."""
    benchmark.group = f"cache_retrieval | grid of 200 betas x 20 alphas | {LARGE}"
    case = cases[LARGE]
    betas, alphas = torch.linspace(0.5, 20, 200), torch.linspace(0.1, 10, 20)
    base, targets = case.grad, torch.arange(len(case.queries)) % case.classes

    def search() -> Tensor:
        return cache_retrieval_grid(case.queries, case.keys, case.cache, betas, alphas, base, targets)

    def cell() -> Tensor:
        return (base + alphas[0] * case.released(case.queries, case.keys)).argmax(-1) == targets

    if rival != "ours":
        benchmark.extra_info["times"] = 4000
    timing.run(benchmark, search if rival == "ours" else cell, rounds=5)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("rival", ["ours", "released"])
def test_scaling(benchmark: Any, rival: str, keys: int) -> None:
    """16 entries a class, 16 queries. The released form's one-hot matrix would pass memory beyond 100,000 keys."""
    benchmark.group = "cache_retrieval | scaling, 16 queries, D = 256"
    benchmark.extra_info |= {"x": keys, "x_name": "keys n", "slope": 1}
    if rival == "released" and keys > 10_000:
        pytest.skip("a one-hot matrix [n, n / 16] of that size does not fit")
    case = Case((16, keys // 16, 16, 256))
    function = case.rival(rival)
    timing.run(benchmark, lambda: function(case.queries, case.keys), rounds=5)


@timing.needs_proc
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("rival", ["ours", "released", "eager"])
def test_scaling_classes(benchmark: Any, rival: str, classes: int) -> None:
    """The same 16,000 keys in more and more classes: only the released form's one-hot product grows."""
    benchmark.group = "cache_retrieval | classes, 64 queries, 16,000 keys, D = 256"
    shape = (64, classes, 16_000 // classes, 256)
    case = Case(shape)
    function = case.rival(rival)
    timing.run(benchmark, lambda: function(case.queries, case.keys), rounds=5)
    mib = timing.in_a_process(__name__, f"memory({rival!r}, False, {shape})")
    benchmark.extra_info |= {"x": classes, "x_name": "classes C", "slope": 0, "memory_slope": 1, "mib": max(mib, 0.05)}


@timing.needs_proc
@pytest.mark.parametrize("rival", ["ours", "released", "eager"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward + backward"])
def test_memory(benchmark: Any, rival: str, backward: bool) -> None:
    benchmark.group = f"cache_retrieval | memory, forward{' + backward' if backward else ''} | {LARGE}"
    timing.record_memory(benchmark, __name__, f"memory({rival!r}, {backward})")


def memory(rival: str, backward: bool, shape: tuple[int, int, int, int] = SHAPES[LARGE]) -> float:
    case = Case(shape)
    queries, keys = case.queries.requires_grad_(backward), case.keys.requires_grad_(backward)
    function = case.rival(rival)
    function(queries[:8], keys)  # loads code and starts threads; a whole call would leave its memory behind

    def call() -> object:
        scores = function(queries, keys)
        return torch.autograd.grad(scores, [queries, keys], case.grad) if backward else scores

    return timing.extra_mib(call)
