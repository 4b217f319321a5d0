"""A step of training never waits for a GPU: no operator looks at what a tensor there holds.

Shown without one: tensors that have a CUDA device and no data go through every operator's forward, where a look at
their values is an error. Torch has no backward for such; that of the CPU is the same code, and is watched.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops.calls import changed, flat, leaves, mapped, places, results_and_gradients
from tests.ops.cases import CASES
from vlmadapt import ops
from vlmadapt.ops import library
from vlmadapt.ops.cache_retrieval import checks

# What is made once, before the steps, looks at indices; so do raw labels, and the search at the right classes.
LOOK = {
    "PreparedCache",
    "Relation",
    "Relation.from_edges",
    "cache_retrieval, raw labels",
    "cache_retrieval_grid",
    "signed_cosine_top_k",
}
# The processor's own: nothing of it runs for a GPU.
OF_THE_CPU = {"cache_retrieval, not kept", "cache_retrieval, values, not kept"}
# A torch built for CPUs alone cannot take a slice of such a tensor: it says so, or ends the process.
of_a_gpu = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="a torch without CUDA has no such tensors")


def without_data(tensor: Tensor) -> Tensor:
    twin = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
    return twin.requires_grad_(tensor.requires_grad)


def on_a_gpu(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments on a CUDA device, without data; to be called under the mode. Structures keep their shapes."""
    arguments = mapped(arguments, without_data)
    for name, number, value in places(arguments):
        if isinstance(value, ops.PreparedCache | ops.Relation):
            there = copy.copy(value)
            for field, part in vars(value).items():
                if isinstance(part, Tensor):
                    setattr(there, field, without_data(part))
            arguments = changed(arguments, name, number, there)
    return arguments


@pytest.fixture(autouse=True)
def _as_if_there_were_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library._loaded, "_cuda", library._loaded["_cpu"])


def forward(name: str) -> None:
    with torch.device("cpu"):
        arguments = CASES[name].draw()
    with FakeTensorMode():
        CASES[name].function(**on_a_gpu(arguments))


@of_a_gpu
@pytest.mark.parametrize("name", [name for name in CASES if name not in LOOK | OF_THE_CPU])
def test_no_operator_looks_at_a_gpus_values(name: str) -> None:
    forward(name)


@of_a_gpu
@pytest.mark.parametrize("name", sorted(LOOK - {"Relation.from_edges"}))
def test_what_is_made_once_does(name: str) -> None:
    with pytest.raises(DataDependentOutputException):
        forward(name)


class Looks(TorchDispatchMode):
    """The operators of torch that hand values to Python, or make shapes of them, as they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::_unique2",
            "aten::bincount",
            "aten::is_nonzero",
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in CASES if name not in OF_THE_CPU])
def test_no_backward_looks_at_values(name: str) -> None:
    with torch.device("cpu"):
        arguments = CASES[name].draw()
        results = [x for x in flat(CASES[name].function(**arguments)) if x.requires_grad]
        with Looks() as looks:
            if results:
                torch.autograd.grad(
                    results, leaves(arguments), [torch.ones_like(x) for x in results], allow_unused=True
                )
    assert not looks.found


@of_a_gpu
def test_the_order_of_a_cache_is_worked_out_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check_label_range", lambda labels, classes: None)
    with FakeTensorMode():
        cache = ops.PreparedCache(torch.empty(9, dtype=torch.int64, device="cuda"), 4)
    assert cache.order.device.type == "cuda" and cache.order.shape == (9,) and cache.offsets.shape == (5,)


@pytest.mark.parametrize("past", [0, 2**61])
def test_the_backward_reads_nothing_at_own_entries_beyond_the_cache(past: int) -> None:
    """Those of a GPU are not checked, and the labels of a text key a class are looked up by them."""
    arguments = CASES["cache_retrieval, a text key a class"].draw()
    own = arguments["own_entry"]
    beyond = torch.full_like(own, len(arguments["keys"]) + past)

    def unpack(saved: Tensor) -> Tensor:
        return beyond if saved.dtype == own.dtype and torch.equal(saved, own) else saved

    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, unpack):
        _, gradients = results_and_gradients(ops.cache_retrieval, arguments)
    _, kept = results_and_gradients(ops.cache_retrieval, arguments)
    assert all(x.isfinite().all() for x in gradients)
    assert not all(torch.equal(x, y) for x, y in zip(gradients, kept, strict=True))  # the hook has replaced it
