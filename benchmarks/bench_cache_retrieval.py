"""cache_retrieval against its rivals: ``make bench``.

Rivals, all on the same tensors in the same run: the released Tip-Adapter form (one-hot product), the best eager form
(``view.sum`` for sorted balanced classes, ``index_add`` for ragged ones), ``torch.compile`` of it, FAISS (only the
search for the nearest key) and KeOps. Ceiling: a bare sgemm of the same products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.exact import record_error
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


# Largest error against float64 that a rival may have, as a share of the largest score or gradient.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
TYPES = {"": torch.float32, ", bfloat16": torch.bfloat16, ", float16": torch.float16}
COLD = ("Q1_C1000_K16_D512", "Q64_C1000_K16_D1024")


@pytest.fixture(scope="module", params=[(shape, kind) for kind in TYPES for shape in SHAPES], ids="".join)
def typed(request: pytest.FixtureRequest) -> tuple[str, str, Case]:
    """Shape, what the group's name says of the type, and the tensors."""
    shape, kind = request.param
    return shape, kind, Case(SHAPES[shape], TYPES[kind])


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(shape) for name, shape in SHAPES.items()}


def flops_of(case: Case) -> float:
    """Of the similarities, which every form computes."""
    return 2.0 * case.queries.numel() * len(case.keys)


@pytest.mark.parametrize("rival", ["ours", "released", "eager", "compiled", "faiss_top_1", "sgemm"])
def test_forward(benchmark: Any, typed: tuple[str, str, Case], rival: str) -> None:
    shape, kind, case = typed
    benchmark.group = f"cache_retrieval | forward{kind} | {shape}"
    queries, keys, dtype = case.queries, case.keys, TYPES[kind]
    if rival in ("faiss_top_1", "released") and kind:
        pytest.skip("FAISS searches float32, and the released form is raced there")
    if rival == "sgemm":
        product = torch.empty(len(queries), len(keys), dtype=dtype)
        timing.run(benchmark, lambda: torch.mm(queries, keys.T, out=product), flops=flops_of(case), dtype=dtype)
        return
    function = case.rival(rival)
    result = function(queries, keys)
    if rival != "faiss_top_1":
        exact = case.released(queries.double(), keys.double())
        record_error(benchmark, [result], [exact], TOLERANCES[dtype])
    timing.run(benchmark, lambda: function(queries, keys), flops=flops_of(case), dtype=dtype)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rival", ["ours", "released", "eager", "compiled", "sgemm"])
def test_forward_and_backward(benchmark: Any, typed: tuple[str, str, Case], rival: str) -> None:
    shape, kind, case = typed
    benchmark.group = f"cache_retrieval | forward + backward{kind} | {shape}"
    dtype, flops = TYPES[kind], 3 * flops_of(case)
    if dtype is torch.float16 and len(case.queries) > 256 and rival not in ("ours", "eager"):
        pytest.skip("the rivals take up to twenty seconds a call in float16: one of them is enough")
    if rival == "released" and kind:
        pytest.skip("the released form is raced in float32")
    if rival == "sgemm":  # similarities, and the gradients of queries and keys from them: no form does with less
        product = torch.empty(len(case.queries), len(case.keys), dtype=dtype)
        outputs = torch.empty_like(case.queries), torch.empty_like(case.keys)

        def three_products() -> None:
            torch.mm(case.queries, case.keys.T, out=product)
            torch.mm(product, case.keys, out=outputs[0])
            torch.mm(product.T, case.queries, out=outputs[1])

        timing.run(benchmark, three_products, flops=flops, dtype=dtype)
        return

    def gradients(function: Callable[[Tensor, Tensor], Tensor], *inputs: Tensor) -> Sequence[Tensor]:
        scores = function(*inputs)
        return torch.autograd.grad(scores, inputs, case.grad.to(scores.dtype))

    function = case.rival(rival)
    queries, keys = case.queries.clone().requires_grad_(), case.keys.clone().requires_grad_()
    exact = gradients(case.eager, queries.detach().double().requires_grad_(), keys.detach().double().requires_grad_())
    record_error(benchmark, gradients(function, queries, keys), exact, TOLERANCES[dtype])
    timing.run(benchmark, lambda: gradients(function, queries, keys), flops=flops, dtype=dtype)


@pytest.mark.parametrize("rival", ["ours", "eager", "compiled", "sgemm"])
@pytest.mark.parametrize("shape", COLD)
def test_cold(benchmark: Any, cases: dict[str, Case], shape: str, rival: str) -> None:
    """Other queries and keys at each call: a cache as few users have them, one that is asked now and then."""
    benchmark.group = f"cache_retrieval | forward, cold | {shape}"
    case = cases[shape]
    function = (lambda queries, keys: queries @ keys.T) if rival == "sgemm" else case.rival(rival)
    inputs = timing.copies([case.queries, case.keys])
    for queries, keys in inputs:
        function(queries, keys)
    timing.run(benchmark, timing.rotated(function, inputs), rounds=3 * timing.ROUNDS, flops=flops_of(case))


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
