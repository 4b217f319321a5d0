"""``use_reference()``: every operator in plain PyTorch, with the results, dtypes and errors of the compiled ones."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops.test_devices import CPU, calls
from vlmadapt import ops
from vlmadapt.errors import InputError, MissingDependency
from vlmadapt.ops import library
from vlmadapt.ops.switch import reference_in_use

FUNCTIONS = [name for name in calls() if not name.startswith("Relation")]


class Compiled(TorchDispatchMode):
    """Notes which compiled operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function.namespace == "vlmadapt":
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, ops.Relation):
        return [result.row_offsets, result.columns]
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result if part is not None for tensor in flat(part)]


def run(call: str, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """Results, gradients of the tensors that have one, and the compiled operators that ran."""
    with CPU:
        function, arguments = calls()[call]
        leaves = [x for value in arguments.values() for x in (value if isinstance(value, list) else [value])]
        leaves = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
        with Compiled() as compiled:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                results = flat(function(**arguments))
            wanted = [x for x in results if x.requires_grad]
            grads = torch.autograd.grad([x.sum() for x in wanted], leaves, allow_unused=True) if wanted else ()
        return (
            results,
            [x.new_zeros(()) if g is None else g for x, g in zip(leaves, grads, strict=False)],
            compiled.names,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["plain", "autocast"])
@pytest.mark.parametrize("call", FUNCTIONS)
def test_results_and_gradients_are_those_of_the_compiled_operator(call: str, dtype: torch.dtype) -> None:
    results, grads, ran = run(call, dtype)
    assert ran or call == "signed_cosine_degrees" or call == "signed_cosine_aggregate"  # these two are torch's products
    with ops.use_reference():
        plain, plain_grads, ran = run(call, dtype)
    assert not [name for name in ran if "class_order" not in name]
    for ours, expected in zip([*plain, *plain_grads], [*results, *grads], strict=True):
        assert ours.dtype == expected.dtype
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("call", FUNCTIONS)
def test_no_compiled_library_is_needed(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_loaded", {})
    with pytest.raises(MissingDependency):
        run(call)
    with ops.use_reference():
        _, _, ran = run(call)
    assert not ran


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
