"""cache_retrieval with values against its rivals: two products with an exponential between them.

Rivals, on the same tensors in the same run: the eager form, ``torch.compile`` of it, and, as the kin that others have
made fast, ``scaled_dot_product_attention``, whose weights are those affinities divided by their sum. Ceiling: bare
sgemms of the same products, with the affinities stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from benchmarks import timing
from benchmarks.exact import record_error
from benchmarks.rivals import compiled
from vlmadapt.ops import cache_retrieval

BETA = 5.5
# queries, entries, columns, width
SHAPES = {
    "Q256_n1600_C100_D512": (256, 1_600, 100, 512),
    "Q1000_n16000_C1000_D512": (1_000, 16_000, 1_000, 512),
    "Q64_n16000_C1000_D1024": (64, 16_000, 1_000, 1_024),
    "Q1_n16000_C1000_D512": (1, 16_000, 1_000, 512),
    "Q1000_n16000_C512_D512": (1_000, 16_000, 512, 512),
    "Q4096_n4096_C100_D512": (4_096, 4_096, 100, 512),
}
LARGE = "Q1000_n16000_C1000_D512"
TOLERANCE = 1e-4
RIVALS = ("ours", "eager", "compiled", "sdpa", "sgemm")


class Case:
    """One shape's tensors and every rival as a function of queries, keys and values."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        queries, entries, columns, width = shape
        generator = torch.Generator(device=timing.device()).manual_seed(0)
        rows = (torch.randn(count, width, generator=generator) for count in (queries, entries))
        self.queries, self.keys = (normalize(matrix, dim=-1) for matrix in rows)
        self.values = torch.randn(entries, columns, generator=generator)
        self.grad = torch.randn(queries, columns, generator=generator)
        self.inputs = (self.queries, self.keys, self.values)

    def ours(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return cache_retrieval(queries, keys, values=values, beta=BETA)

    def eager(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return torch.exp(BETA * (queries @ keys.T) - BETA) @ values

    def sdpa(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return scaled_dot_product_attention(queries[None, None], keys[None, None], values[None, None], scale=BETA)[0, 0]

    def rival(self, name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return compiled(self.eager) if name == "compiled" else getattr(self, name)

    def flops(self) -> float:
        """Of the forward's two products."""
        return 2.0 * len(self.queries) * len(self.keys) * (self.keys.shape[1] + self.values.shape[1])

    def products(self, backward: bool) -> Callable[[], None]:
        """The forward's two, and the backward's four from stored affinities: no form does with less."""
        stored = torch.empty(len(self.queries), len(self.keys))
        outputs = [torch.empty_like(self.grad), *(torch.empty_like(tensor) for tensor in self.inputs)]

        def run() -> None:
            torch.mm(self.queries, self.keys.T, out=stored)
            torch.mm(stored, self.values, out=outputs[0])
            if backward:
                torch.mm(stored.T, self.grad, out=outputs[3])
                torch.mm(self.grad, self.values.T, out=stored)
                torch.mm(stored, self.keys, out=outputs[1])
                torch.mm(stored.T, self.queries, out=outputs[2])

        return run


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(benchmark: Any, cases: dict[str, Case], shape: str, rival: str) -> None:
    benchmark.group = f"cache_retrieval | forward, values | {shape}"
    case = cases[shape]
    if rival == "sgemm":
        timing.run(benchmark, case.products(backward=False))
        return
    function = case.rival(rival)
    if rival != "sdpa":
        exact = case.eager(*(tensor.double() for tensor in case.inputs))
        record_error(benchmark, [function(*case.inputs)], [exact], TOLERANCE)
    timing.run(benchmark, lambda: function(*case.inputs), flops=case.flops())


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(benchmark: Any, cases: dict[str, Case], shape: str, rival: str) -> None:
    benchmark.group = f"cache_retrieval | forward + backward, values | {shape}"
    case = cases[shape]
    if rival == "sgemm":
        timing.run(benchmark, case.products(backward=True))
        return
    function = case.rival(rival)
    leaves = [tensor.clone().requires_grad_() for tensor in case.inputs]
    if rival != "sdpa":
        doubles = [tensor.double().requires_grad_() for tensor in case.inputs]
        exact = torch.autograd.grad(case.eager(*doubles), doubles, case.grad.double())
        record_error(benchmark, torch.autograd.grad(function(*leaves), leaves, case.grad), exact, TOLERANCE)
    flops = 3 * case.flops()
    timing.run(benchmark, lambda: torch.autograd.grad(function(*leaves), leaves, case.grad), flops=flops)


@timing.needs_proc
@pytest.mark.parametrize("rival", ["ours", "eager"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward + backward"])
def test_memory(benchmark: Any, rival: str, backward: bool) -> None:
    benchmark.group = f"cache_retrieval | memory, forward{' + backward' if backward else ''}, values | {LARGE}"
    timing.record_memory(benchmark, __name__, f"memory({rival!r}, {backward})")


def memory(rival: str, backward: bool) -> float:
    case = Case(SHAPES[LARGE])
    leaves = [tensor.requires_grad_(backward) for tensor in case.inputs]
    function = case.rival(rival)
    function(leaves[0][:8], *leaves[1:])  # loads code and starts threads; a whole call would leave its memory behind

    def call() -> object:
        scores = function(*leaves)
        return torch.autograd.grad(scores, leaves, case.grad) if backward else scores

    return timing.extra_mib(call)
