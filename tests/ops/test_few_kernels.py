"""A call of cache_retrieval on a GPU is one operator: no tensor is filled, copied or expanded for it.

Shown without one, as in test_no_waiting.py: forwards with tensors that have a CUDA device and no data, backwards on the
CPU, where the same code runs. How many kernels an operator launches is counted in tests/cuda_on_cpu/test_splits.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops.calls import flat
from tests.ops.cases import CASES
from tests.ops.draw import Arguments
from tests.ops.test_no_waiting import _as_if_there_were_a_library, of_a_gpu, on_a_gpu  # noqa: F401  (a fixture)
from vlmadapt.errors import InputError

# Those of cases.py, and gradients that a fit of the cache's keys needs, or of the keys and the sharpness.
ONE_STREAM = "cache_retrieval, one stream, a number"
FORWARDS = {
    ONE_STREAM: "vlmadapt::cache_retrieval",
    "cache_retrieval, one beta for all": "vlmadapt::cache_retrieval",
    "cache_retrieval": "vlmadapt::cache_retrieval",
    "cache_retrieval, values, a number": "vlmadapt::cache_retrieval_dense",
    "cache_retrieval, values, one beta for all": "vlmadapt::cache_retrieval_dense",
}


class Work(TorchDispatchMode):
    """The operators that were called, without those that only look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        looks = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not looks and not func._schema.name.startswith("prim::"):  # questions about a tensor without data
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def drawn(name: str) -> Arguments:
    with torch.device("cpu"):
        return CASES[name].draw(torch.float32)


@of_a_gpu
@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_is_one_operator(name: str) -> None:
    arguments = drawn(name)
    with FakeTensorMode():
        there = on_a_gpu(arguments)
        with Work() as work:
            CASES[name].function(**there)
    assert work.names == [FORWARDS[name]]


def backward_of(name: str, *wanted: str) -> list[str]:
    arguments = drawn(name)
    for key, value in arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.requires_grad_(key in wanted)
    scores = flat(CASES[name].function(**arguments))[0]
    with Work() as work:
        torch.autograd.grad(scores, [arguments[key] for key in wanted], torch.ones_like(scores.detach()))
    return [x for x in work.names if x != "aten::ones_like"]


@pytest.mark.parametrize("wanted", [["keys"], ["queries"], ["queries", "keys"]], ids=str)
def test_a_backward_is_one_operator(wanted: list[str]) -> None:
    assert backward_of(ONE_STREAM, *wanted) == ["vlmadapt::cache_retrieval_backward"]
    assert backward_of("cache_retrieval, values, a number", "values") == ["vlmadapt::cache_retrieval_dense_backward"]


def test_one_sharpness_for_all_costs_its_sum() -> None:
    name = "cache_retrieval, values, one beta for all"
    assert backward_of(name, "keys", "beta") == ["vlmadapt::cache_retrieval_dense_backward", "aten::sum"]


@pytest.mark.parametrize("wanted", [["keys"], ["keys", "text_keys"]], ids=str)
def test_only_wanted_sums_of_rows_are_computed(wanted: list[str]) -> None:
    name = "cache_retrieval, numbers"
    arguments = drawn(name)
    for key, value in arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.requires_grad_(key in wanted)
    scores, disagreement = CASES[name].function(**arguments)
    assert disagreement.shape == (len(scores),)
    shapes: list[tuple[int, ...]] = []

    class Rows(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.vlmadapt.cache_retrieval_backward.default:
                shapes.append(tuple(result[2].shape))
            return result

    with Rows():
        scores.sum().backward()
    assert shapes == [(3, 0)] * 2


def test_no_disagreement_unless_it_is_asked_for() -> None:
    arguments = drawn("cache_retrieval, numbers") | {"return_disagreement": False}
    returned: list[Any] = []

    class Results(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            returned.append(func(*args, **(kwargs or {})))
            return returned[-1]

    with Results():
        CASES["cache_retrieval"].function(**arguments)
    assert returned[-1][1].shape == (0,)


@pytest.mark.parametrize("name", ["beta", "text_beta", "ratio"])
def test_a_number_that_the_type_cannot_hold_is_refused(name: str) -> None:
    arguments = drawn("cache_retrieval, numbers") | {name: 1e300}
    with pytest.raises(InputError, match=f"{name} is 1e\\+300, more than torch.float32 can hold"):
        CASES["cache_retrieval"].function(**arguments)
