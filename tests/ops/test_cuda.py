"""What only a GPU can show: streams, graphs, a second device, TF32, waiting, and the same bits again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.calls import mapped, results_and_gradients
from tests.ops.cases import CASES
from tests.ops.draw import Arguments
from tests.ops.test_no_waiting import LOOK, OF_THE_CPU
from vlmadapt import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
STEPS = [name for name, case in CASES.items() if name not in LOOK | OF_THE_CPU and not case.plain]
REPEATS = 20


def drawn(name: str, device: str = "cuda") -> Arguments:
    with torch.device(device):
        return CASES[name].draw(torch.float32, **CASES[name].large)


def step(name: str, arguments: Arguments) -> list[Tensor]:
    results, gradients = results_and_gradients(CASES[name].function, arguments, torch.ones_like)
    return [*results, *gradients]


def assert_same(name: str, ours: list[Tensor], expected: list[Tensor]) -> None:
    """Bit for bit, but where torch's products take part."""
    tolerance = 1e-5 if CASES[name].blas else 0.0
    for x, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def warmed_up(function: Any, *args: Any) -> None:
    """Kernels are loaded at their first launch, which a capture cannot hold."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            function(*args)
    torch.cuda.current_stream().wait_stream(side)


@pytest.mark.parametrize("name", STEPS)
def test_a_captured_step_is_that_of_the_inputs_it_finds(name: str) -> None:
    arguments = drawn(name)
    warmed_up(step, name, arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(name, arguments)
    for _ in range(3):
        mapped(arguments, lambda x: x.data.copy_(x.data.flip(0)) if x.is_floating_point() else x)
        graph.replay()
        found = [x.clone() for x in captured]
        assert_same(name, found, step(name, arguments))


@pytest.mark.parametrize("name", STEPS)
def test_the_current_stream_is_used(name: str) -> None:
    """The inputs come from a slow kernel on a stream of its own; a step on another stream would not wait for it."""
    arguments = drawn(name)
    expected = step(name, arguments)
    filled: list[tuple[Tensor, Tensor]] = []

    def empty_yet(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        there = torch.full_like(x, torch.nan).requires_grad_(x.requires_grad)
        filled.append((there, x))
        return there

    late = mapped(arguments, empty_yet)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)  # type: ignore[attr-defined]
        for there, here in filled:
            there.data.copy_(here.data)
        found = step(name, late)
        torch.cuda.current_stream().synchronize()
    assert_same(name, found, expected)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_for_nothing(name: str) -> None:
    arguments = drawn(name)
    step(name, arguments)  # what is made once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(name, arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", STEPS)
def test_the_same_bits_again(name: str) -> None:
    arguments = drawn(name)
    first = step(name, arguments)
    for _ in range(REPEATS):
        assert_same(name, step(name, arguments), first)


@pytest.mark.parametrize("name", STEPS)
def test_a_device_that_is_not_the_current_one(name: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one device")
    expected = step(name, drawn(name, "cuda:0"))
    with torch.cuda.device(0):
        found = step(name, drawn(name, "cuda:1"))
    assert all(x.device.index == 1 for x in found)
    assert_same(name, [x.to("cuda:0") for x in found], expected)


def test_tf32_is_taken_where_it_is_allowed() -> None:
    arguments = drawn("cache_retrieval")
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        scores = {}
        for precision in ("ieee", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = precision
            scores[precision] = ops.cache_retrieval(**arguments)[0]
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    gap = ((scores["ieee"] - scores["tf32"]).abs().max() / scores["ieee"].abs().max()).item()
    assert 1e-6 < gap < 1e-2


@pytest.mark.timeout(600)
def test_compiled_with_graphs_by_torch() -> None:
    arguments = drawn("cache_retrieval")
    names = ("queries", "keys")
    fixed = {name: value for name, value in arguments.items() if name not in names}

    def two_layers(queries: Tensor, keys: Tensor) -> Tensor:
        scores = ops.cache_retrieval(queries=queries, keys=keys, **fixed)[0]
        return ops.cache_retrieval(queries=queries + scores.mean(), keys=keys, **fixed)[0].square().sum()

    compiled = torch.compile(two_layers, mode="reduce-overhead")
    inputs = [arguments[name] for name in names]
    expected = torch.autograd.grad(two_layers(*inputs), inputs)
    for _ in range(5):
        torch.compiler.cudagraph_mark_step_begin()
        found = torch.autograd.grad(compiled(*inputs), inputs)
        torch.testing.assert_close(list(found), list(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["cache_retrieval", "cache_retrieval, a text key a class", "cache_retrieval, numbers"])
def test_routes_agree(name: str, dtype: torch.dtype) -> None:
    """With several chunks of queries and of keys."""
    found = {}
    for route in ("fused", "chunked"):
        with torch.device("cuda"):
            sizes = CASES[name].large | {"queries": 1500, "entries": 9000}
            arguments = CASES[name].draw(dtype, **sizes) | {"route": route}
        found[route] = step(name, arguments)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-3}.get(dtype, 3e-2)
    for chunked, fused in zip(found["chunked"], found["fused"], strict=True):
        largest = fused.abs().max().clamp(min=1e-30)
        assert ((chunked - fused).abs().max() / largest).item() < tolerance
