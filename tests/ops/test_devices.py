"""A tensor on another device than the others is refused by the bindings and by the fake kernels too.

Python's checks are asked in the battery. A kernel of a GPU that reads a CPU tensor's memory ends the process, or at
best reads slowly; "meta" stands for the other device here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.calls import record
from tests.ops.cases import CASES
from vlmadapt.errors import InputError

with torch.device("cpu"):
    RECORDED = record(CASES.values())


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
            value = args[position] if item is None else args[position][item]
            key = func._schema.name, position, item
            if several and key not in seen and value.numel():  # an empty one says that there is none
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


# Each setting in a process of its own, for one interface cannot be used after the other; torch is imported once.
TF32 = """
import os
import torch
from vlmadapt.ops import checks
matmul = torch.backends.cuda.matmul
for setting in {settings}:
    if os.fork() == 0:
        exec(setting)
        compiled = torch.compile(lambda x: x + int(checks.matmul_takes_tf32()), backend="eager", fullgraph=True)
        print(checks.matmul_takes_tf32(), bool(compiled(torch.zeros(())).item()), flush=True)
        os._exit(0)
    os.wait()
"""
SETTINGS = {
    "matmul.fp32_precision = 'tf32'": True,
    "matmul.fp32_precision = 'ieee'": False,
    "matmul.allow_tf32 = True": True,
    "torch.set_float32_matmul_precision('high')": True,
    "": False,
}


def test_both_interfaces_to_tf32_are_read() -> None:
    command = [sys.executable, "-c", TF32.format(settings=list(SETTINGS))]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert run.stdout.splitlines() == [f"{taken} {taken}" for taken in SETTINGS.values()], run.stderr
