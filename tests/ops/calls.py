"""Tools that take any call of an operator: its tensors found, changed and recorded, its results and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops.draw import Arguments, Case, generator
from vlmadapt import ops


def flat(result: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    if isinstance(result, ops.Relation):
        return [result.row_offsets, result.columns]
    if isinstance(result, ops.PreparedCache):
        return [result.labels, result.order, result.offsets]
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result if part is not None for tensor in flat(part)]


def places(arguments: Arguments) -> Iterator[tuple[str, int | None, Any]]:
    """Name, number in a list, and value of each argument; what is in no list has no number."""
    for name, value in arguments.items():
        if isinstance(value, list):
            yield from ((name, number, item) for number, item in enumerate(value))
        else:
            yield name, None, value


def changed(arguments: Arguments, name: str, number: int | None, value: Any) -> Arguments:
    """A copy with one value replaced."""
    if number is None:
        return arguments | {name: value}
    return arguments | {name: [value if i == number else item for i, item in enumerate(arguments[name])]}


def mapped(arguments: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    """A copy with every tensor replaced, one that comes twice by the same."""
    known: dict[int, Tensor] = {}
    for name, number, value in places(arguments):
        if isinstance(value, Tensor):
            if id(value) not in known:
                known[id(value)] = change(value)
            arguments = changed(arguments, name, number, known[id(value)])
    return arguments


def leaves(arguments: Arguments) -> list[Tensor]:
    """The tensors that require a gradient, each once."""
    found = {id(x): x for _, _, x in places(arguments) if isinstance(x, Tensor) and x.requires_grad}
    return list(found.values())


def grad_of(result: Tensor) -> Tensor:
    return torch.randn(result.shape, generator=generator(1), dtype=torch.float64).to(result.dtype)


def results_and_gradients(
    function: Callable[..., Any], arguments: Arguments, grad: Callable[[Tensor], Tensor] = grad_of
) -> tuple[list[Tensor], list[Tensor]]:
    """Results, and the gradients of ``leaves``, zero where there is none."""
    results = flat(function(**arguments))
    wanted, inputs = [x for x in results if x.requires_grad], leaves(arguments)
    if not wanted:
        return results, []
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    return results, list(torch.autograd.grad(wanted, inputs, [grad(x) for x in wanted], **options))


class Recorder(TorchDispatchMode):
    """The calls of compiled operators: operator and arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vlmadapt":
            assert not kwargs
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def wanting(case: Case, only: int) -> Arguments:
    """Arguments of which one leaf alone requires a gradient."""
    arguments = case.draw()
    for number, leaf in enumerate(leaves(arguments)):
        leaf.requires_grad_(number == only)
    return arguments


def record(cases: Iterable[Case]) -> list[tuple[Any, tuple[Any, ...]]]:
    """The compiled operators that run in these cases, forward and backward, for all gradients and for each alone."""
    with Recorder() as recorder:
        for case in cases:
            arguments = case.draw()
            for each in (arguments, *(wanting(case, only) for only in range(len(leaves(arguments))))):
                results_and_gradients(case.function, each)
    return recorder.calls


def identical_at_thread_counts(run: Callable[[], list[Tensor]], same: Callable[[Tensor, Tensor], Any]) -> None:
    """Assert that results are the same at every number of threads, and from run to run."""
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, threads, threads):
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for x, expected in zip(result, results[0], strict=True):
            same(x, expected)
