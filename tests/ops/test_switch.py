"""``use_reference()``: every operator in plain PyTorch, with the results, dtypes and errors of the compiled ones."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.calls import Recorder, results_and_gradients
from tests.ops.cases import CASES
from vlmadapt import ops
from vlmadapt.errors import InputError, MissingDependency
from vlmadapt.ops import library
from vlmadapt.ops.switch import reference_in_use

CPU = torch.device("cpu")
NAMES = [name for name, case in CASES.items() if not (case.plain or name.startswith(("Relation", "PreparedCache")))]
TORCHS_PRODUCTS = ("signed_cosine_degrees", "signed_cosine_aggregate", "hetero_aggregate, as matrices")


def run(name: str, autocast: bool = False) -> tuple[list[Tensor], list[str]]:
    """Results and gradients, and the compiled operators that ran."""
    case = CASES[name]

    def function(**arguments: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return case.function(**arguments)

    with CPU:
        arguments = case.draw()
        with Recorder() as recorder:
            results, gradients = results_and_gradients(function, arguments)
    return [*results, *gradients], [func._schema.name for func, _ in recorder.calls]


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("name", NAMES)
def test_results_and_gradients_are_those_of_the_compiled_operator(name: str, autocast: bool) -> None:
    results, ran = run(name, autocast)
    assert ran or name.startswith(TORCHS_PRODUCTS)
    with ops.use_reference():
        plain, ran = run(name, autocast)
    assert not ran
    for ours, expected in zip(plain, results, strict=True):
        assert ours.dtype == expected.dtype
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_compiled_library_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with CPU, monkeypatch.context() as patched:
        arguments = CASES[name].draw()
        patched.setattr(library, "_loaded", {})
        with pytest.raises(MissingDependency):
            CASES[name].function(**arguments)
        with ops.use_reference(), Recorder() as recorder:
            CASES[name].function(**arguments)
    assert not recorder.calls


def test_bad_arguments_are_refused_as_ever() -> None:
    with ops.use_reference(), pytest.raises(InputError, match="pass at least 1"):
        ops.p_laplacian(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 4), torch.ones(1, 1, 3, 4), 0.5, 0.1)


def test_the_grid_breaks_ties_and_counts_nan_as_the_compiled_one() -> None:
    grid = (torch.tensor([1.0]), torch.tensor([1.0]), torch.zeros(2, 2), torch.tensor([0, 0]))
    queries = torch.tensor([[1.0, 1.0], [float("nan"), 1.0]])
    with ops.use_reference():
        assert ops.cache_retrieval_grid(queries, torch.ones(2, 2), torch.tensor([0, 1]), *grid, num_classes=2) == 0.5


def test_the_order_of_a_cache_is_the_same() -> None:
    labels = torch.tensor([3, 0, 3, 1, 0])
    compiled = ops.PreparedCache(labels, 5)
    with ops.use_reference():
        plain = ops.PreparedCache(labels, 5)
    assert torch.equal(plain.order, compiled.order) and torch.equal(plain.offsets, compiled.offsets)
    assert plain.offsets.dtype == compiled.offsets.dtype


def test_contexts_nest_and_end_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), ops.use_reference():
        with ops.use_reference():
            pass
        assert reference_in_use()
        raise ZeroDivisionError
    assert not reference_in_use()


def test_another_thread_does_not_switch_it_off() -> None:
    def enter_and_leave() -> None:
        with ops.use_reference():
            pass

    with ops.use_reference():
        thread = threading.Thread(target=enter_and_leave)
        thread.start()
        thread.join()
        assert reference_in_use()


def test_a_compiled_function_follows_the_switch() -> None:
    graphs: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module.code)
        return module.forward

    attention, x = torch.rand(1, 1, 3, 3), torch.rand(1, 1, 3, 4)
    compiled = torch.compile(lambda: ops.p_laplacian(attention, x, x, 1.5, 0.1), fullgraph=True, backend=backend)
    expected = compiled()
    with ops.use_reference():
        torch.testing.assert_close(compiled(), expected)
    torch.testing.assert_close(compiled(), expected)
    assert ["vlmadapt.p_laplacian" in code for code in graphs] == [True, False]
