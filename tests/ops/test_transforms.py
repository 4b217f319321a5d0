"""``torch.func`` over every operator that has a gradient: as ``backward``, and as one call after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.calls import flat, leaves, mapped
from tests.ops.draw import Arguments, Case
from tests.ops.test_battery import DIFFERENTIABLE
from vlmadapt import ops
from vlmadapt.errors import InputError

EVERY = pytest.mark.parametrize("case", DIFFERENTIABLE)


def loss_of(case: Case, arguments: Arguments) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A number of the differentiable arguments, and these."""
    inputs = leaves(arguments)

    def loss(*given: Tensor) -> Tensor:
        known = {id(x): new for x, new in zip(inputs, given, strict=True)}
        results = flat(case.function(**mapped(arguments, lambda x: known.get(id(x), x))))
        return torch.stack(
            [torch.where(x.isinf(), 0, x).square().sum() for x in results if x.is_floating_point()]
        ).sum()

    return loss, [x.detach() for x in inputs]


def gradients(case: Case, arguments: Arguments) -> list[Tensor]:
    loss, _ = loss_of(case, arguments)
    return list(torch.autograd.grad(loss(*leaves(arguments)), leaves(arguments), materialize_grads=True))


@EVERY
def test_grad_is_that_of_backward(case: Case) -> None:
    arguments = case.draw(torch.float64)
    loss, inputs = loss_of(case, arguments)
    found = torch.func.grad(loss, tuple(range(len(inputs))))(*inputs)
    torch.testing.assert_close(list(found), gradients(case, arguments))
    alone = torch.func.grad(loss)(*inputs)
    torch.testing.assert_close(alone, found[0])


@EVERY
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_vmap_is_one_call_after_the_other(case: Case) -> None:
    loss, inputs = loss_of(case, case.draw(torch.float64))
    batch = torch.stack([inputs[0], inputs[0] * 0.5], 1)
    rest = inputs[1:]
    found = torch.func.vmap(lambda x: loss(x, *rest), in_dims=1)(batch)
    torch.testing.assert_close(found, torch.stack([loss(x, *rest) for x in batch.unbind(1)]))
    each = torch.func.vmap(lambda x: torch.func.grad(loss)(x, *rest), in_dims=1)(batch)
    expected = torch.stack([torch.func.grad(loss)(x, *rest) for x in batch.unbind(1)])
    torch.testing.assert_close(each, expected)
    # And the other way round: the gradient of a sum over a batch.
    total = torch.func.grad(lambda b: torch.func.vmap(lambda x: loss(x, *rest), in_dims=1)(b).sum())(batch)
    torch.testing.assert_close(total.movedim(1, 0), expected)


@EVERY
def test_a_second_derivative_is_right_or_refused(case: Case) -> None:
    loss, inputs = loss_of(case, case.draw(torch.float64))

    def slope(x: Tensor) -> Tensor:
        return torch.func.grad(loss)(x, *inputs[1:]).square().sum()

    if case.twice:
        assert torch.func.grad(slope)(inputs[0]).shape == inputs[0].shape
    else:
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.func.grad(slope)(inputs[0])


def test_a_transform_within_a_graph_keeps_it() -> None:
    queries, keys = torch.randn(3, 4, requires_grad=True), torch.randn(6, 4)
    labels = torch.arange(6) % 2

    def score(scale: Tensor) -> Tensor:
        return ops.cache_retrieval(queries, keys, labels, scale, num_classes=2).sum()

    torch.func.vmap(score)(torch.tensor([1.0, 2.0])).sum().backward()
    expected = torch.autograd.grad(score(torch.tensor(1.0)) + score(torch.tensor(2.0)), queries)[0]
    torch.testing.assert_close(queries.grad, expected)


def test_a_batch_of_nothing_is_refused() -> None:
    keys, labels = torch.randn(6, 4), torch.arange(6) % 2

    def scores(x: Tensor) -> Tensor:
        return ops.cache_retrieval(x, keys, labels, 1.0, num_classes=2)

    with pytest.raises(InputError, match="maps cache_retrieval over nothing"):
        torch.func.vmap(scores)(torch.randn(0, 3, 4))


def test_labels_cannot_be_mapped() -> None:
    queries, keys, labels = torch.randn(3, 4), torch.randn(6, 4), torch.arange(6) % 2

    def scores(x: Tensor) -> Tensor:
        return ops.cache_retrieval(queries, keys, x, 1.0, num_classes=2)

    with pytest.raises(InputError, match="vmap maps an argument of PreparedCache"):
        torch.func.vmap(scores)(torch.stack([labels, labels]))
