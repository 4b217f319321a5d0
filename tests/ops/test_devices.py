"""A tensor on another device than the others is refused: by Python's checks, by the bindings, by the fake kernels.

A kernel of a GPU that reads a CPU tensor's memory ends the process, or at best reads slowly; "meta" stands for the
other device here.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vlmadapt import ops
from vlmadapt.errors import InputError, VlmadaptError

CPU = torch.device("cpu")


def draw(*shape: int) -> Tensor:
    source = torch.Generator(device="cpu").manual_seed(sum(shape))
    return torch.rand(*shape, generator=source, dtype=torch.float32, device="cpu").requires_grad_()


def integers(*values: int) -> Tensor:
    return torch.tensor(values, device="cpu")


def relation() -> ops.Relation:
    return ops.Relation(integers(0, 2, 3), integers(0, 2, 1), 3)


Arguments = dict[str, Any]


def calls() -> dict[str, tuple[Callable[..., Any], Arguments]]:
    """Every public operator with every argument that can be a tensor."""
    cache = {"queries": draw(3, 4), "keys": draw(5, 4), "labels": ops.PreparedCache(integers(0, 1, 0, 1, 1), 2)}
    frozen = cache | {"queries": draw(3, 4).detach(), "keys": draw(5, 4).detach()}
    betas = torch.tensor([1.0, 2.0], device="cpu")
    text = {
        "text_queries": draw(3, 2),
        "text_beta": draw(3),
        "ratio": draw(3),
        "own_entry": integers(0, -1, 2),
        "mask_own_scores": True,
        "return_disagreement": True,
    }
    one_key = text | {"text_keys": draw(5, 2)}
    class_key = text | {"text_keys": draw(2, 2), "text_keys_per_class": True}
    nodes = {"x_query": draw(1, 2, 3, 2), "x_value": draw(1, 2, 4, 2), "p": draw(2) + 1, "mu": draw(2)}
    scores = {
        "query": draw(1, 2, 3, 5),
        "key": draw(1, 2, 4, 5),
        "value": draw(1, 2, 4, 3),
        "mask": torch.zeros(3, 4, device="cpu"),
        "key_lengths": integers(4),
        "return_lse": True,
    }
    cosine = {"targets": draw(3, 4), "sources": draw(3, 4)}
    scales = {"features": draw(3, 2), "target_scale": draw(3), "source_scale": draw(3)}
    graph = {
        "sources": [draw(3, 4), draw(3, 4)],
        "relations": [relation(), relation()],
        "weights": [draw(3), draw(3)],
        "coefficients": draw(2),
    }
    dense = graph | {"relations": [relation(), draw(2, 3)], "weights": [draw(3), None]}
    grid = {
        "betas": betas,
        "alphas": betas,
        "base_logits": torch.zeros(3, 2, device="cpu"),
        "targets": integers(0, 1, 0),
    }
    beta = {"beta": draw(3)}
    return {
        "cache_retrieval": (ops.cache_retrieval, cache | beta | one_key),
        "cache_retrieval, a text key a class": (ops.cache_retrieval, cache | beta | class_key),
        "cache_retrieval, raw labels": (
            ops.cache_retrieval,
            cache | beta | {"labels": integers(0, 1, 0, 1, 1), "num_classes": 2},
        ),
        "cache_retrieval_multi_beta": (ops.cache_retrieval_multi_beta, frozen | {"betas": betas}),
        "cache_retrieval_grid": (ops.cache_retrieval_grid, frozen | grid),
        "p_laplacian": (ops.p_laplacian, nodes | {"attention": draw(1, 2, 3, 4)}),
        "p_laplacian_attention": (ops.p_laplacian_attention, nodes | scores),
        "p_laplacian_attention, kept loops": (ops.p_laplacian_attention, nodes | scores | {"self_loops": "keep"}),
        "hetero_aggregate": (ops.hetero_aggregate, graph),
        "hetero_aggregate, stacked": (ops.hetero_aggregate, graph | {"output": "stacked"}),
        "hetero_aggregate, dense": (ops.hetero_aggregate, dense),
        "Relation": (
            ops.Relation,
            {"row_offsets": integers(0, 2, 3), "columns": integers(0, 2, 1), "num_sources": 3},
        ),
        "Relation.from_edges": (
            ops.Relation.from_edges,
            {"target_index": integers(0, 1), "source_index": integers(1, 0), "num_targets": 2, "num_sources": 2},
        ),
        "signed_cosine_degrees": (ops.signed_cosine_degrees, cosine),
        "signed_cosine_top_k": (ops.signed_cosine_top_k, cosine | {"k": 2}),
        "signed_cosine_aggregate": (ops.signed_cosine_aggregate, cosine | scales),
    }


def elsewhere(value: Any) -> Any:
    """A tensor, or an object that holds tensors, on "meta"."""
    if isinstance(value, Tensor):
        return value.detach().to("meta")
    moved = copy.copy(value)
    for name, part in vars(value).items():
        if isinstance(part, Tensor):
            setattr(moved, name, part.to("meta"))
    return moved


def holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor | ops.PreparedCache | ops.Relation)


def places() -> Iterator[tuple[str, str, int | None]]:
    """Call, argument, and the number in a list."""
    for call, (_, arguments) in calls().items():
        for name, value in arguments.items():
            if holds_tensors(value):
                yield call, name, None
            elif isinstance(value, list):
                yield from ((call, name, number) for number, item in enumerate(value) if holds_tensors(item))


@pytest.mark.parametrize(("call", "name", "number"), list(places()))
def test_python_names_the_argument_on_another_device(call: str, name: str, number: int | None) -> None:
    with CPU:
        function, arguments = calls()[call]
        function(**arguments)
        if number is None:
            shown, arguments[name] = name, elsewhere(arguments[name])
        else:
            shown, arguments[name] = f"{name}[{number}]", list(arguments[name])
            arguments[name][number] = elsewhere(arguments[name][number])
        with pytest.raises(VlmadaptError, match="meta") as caught:
            function(**arguments)
    message = str(caught.value)
    # The first tensor of a call is what the others are compared with.
    first = "there are no kernels for meta tensors" in message
    assert shown in message or first, message
    if isinstance(caught.value, InputError):
        assert "cpu" in message


class Recorder(TorchDispatchMode):
    """The calls of compiled operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vlmadapt":
            assert not kwargs
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def record() -> list[tuple[Any, tuple[Any, ...]]]:
    with CPU, Recorder() as recorder:
        for function, arguments in calls().values():
            result = function(**arguments)
            results = result if isinstance(result, tuple) else (result,)
            wanted = [item for item in results if isinstance(item, Tensor) and item.requires_grad]
            if wanted:
                torch.autograd.backward(wanted, [torch.ones_like(item) for item in wanted])
    return recorder.calls


RECORDED = record()


def tensors_of(args: tuple[Any, ...]) -> Iterator[tuple[int, int | None]]:
    for position, value in enumerate(args):
        if isinstance(value, Tensor):
            yield position, None
        elif isinstance(value, list | tuple):
            yield from ((position, number) for number, item in enumerate(value) if isinstance(item, Tensor))


def test_every_operator_and_every_tensor_argument_of_it_is_recorded() -> None:
    found = {(func._schema.name, position) for func, args in RECORDED for position, _ in tensors_of(args)}
    declared = set()
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("vlmadapt::"):
            continue
        schema = torch._C._get_schema(name, "")
        declared |= {(name, i) for i, argument in enumerate(schema.arguments) if "Tensor" in str(argument.type)}
    assert found == declared and len(declared) > 60


def misplaced() -> Iterator[Any]:
    """Each recorded call, once for every tensor in it."""
    seen = set()
    for number, (func, args) in enumerate(RECORDED):
        several = len(list(tensors_of(args))) > 1
        for position, item in tensors_of(args):
            key = func._schema.name, position, item, len(args[position])
            if several and key not in seen:
                seen.add(key)
                name = f"{func._schema.name}-{func._schema.arguments[position].name}-{item}-{number}"
                yield pytest.param(number, position, item, id=name)


def moved(number: int, position: int, item: int | None) -> tuple[Any, list[Any]]:
    func, given = RECORDED[number]
    args = list(given)
    if item is None:
        args[position] = args[position].to("meta")
    else:
        args[position] = [t.to("meta") if i == item else t for i, t in enumerate(args[position])]
    return func, args


@pytest.mark.parametrize(("number", "position", "item"), list(misplaced()))
def test_the_binding_refuses_a_tensor_on_another_device(number: int, position: int, item: int | None) -> None:
    func, args = moved(number, position, item)
    with pytest.raises(Exception, match=r"is on (the CPU|a device of another kind) but must be on"):
        func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args)


@pytest.mark.parametrize(("number", "position", "item"), list(misplaced()))
def test_the_dispatcher_does_not_turn_to_the_fake_kernel_in_silence(
    number: int, position: int, item: int | None
) -> None:
    func, args = moved(number, position, item)
    with torch.no_grad(), pytest.raises(InputError, match="got tensors on cpu and meta: move all to the same device"):
        func(*args)


TF32 = """
import torch
from vlmadapt.ops import checks
matmul = torch.backends.cuda.matmul
{setting}
compiled = torch.compile(lambda x: x + int(checks.matmul_takes_tf32()), backend="eager", fullgraph=True)
print(checks.matmul_takes_tf32(), bool(compiled(torch.zeros(())).item()))
"""


@pytest.mark.parametrize(
    ("setting", "taken"),
    [
        ("matmul.fp32_precision = 'tf32'", True),
        ("matmul.fp32_precision = 'ieee'", False),
        ("matmul.allow_tf32 = True", True),
        ("torch.set_float32_matmul_precision('high')", True),
        ("", False),
    ],
)
def test_both_interfaces_to_tf32_are_read(setting: str, taken: bool) -> None:
    command = [sys.executable, "-c", TF32.format(setting=setting)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert run.stdout.split() == [str(taken)] * 2, run.stderr
