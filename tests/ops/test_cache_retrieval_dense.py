"""Cache retrieval with values in place of labels, beyond what the battery asks of every operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.draw import generator
from tests.ops.test_cache_retrieval import SHAPES, make, scores_of
from vlmadapt.errors import InputError
from vlmadapt.ops import cache_retrieval, cache_retrieval_reference

# Several blocks of queries and of keys; more columns than are packed at a time.
LARGE = [(1100, 2100, 9, 12), (40, 60, 1300, 5)]


def inputs_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    queries, keys, _ = make(shape, dtype, seed)
    values = torch.randn(shape[1], shape[2], generator=generator(seed + 50), dtype=torch.float64).to(dtype)
    return {"queries": queries, "keys": keys, "values": values}


@pytest.mark.parametrize("shape", [*SHAPES, *LARGE], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_scores_and_gradients_equal_the_reference(shape: tuple[int, ...], masked: bool) -> None:
    inputs = inputs_of(shape) | {"beta": torch.linspace(1, 3, shape[0], dtype=torch.float64)}
    for tensor in inputs.values():
        tensor.requires_grad_()
    fixed: dict[str, Any] = {"mask_own_scores": masked}
    if shape[1]:
        fixed["own_entry"] = (torch.arange(shape[0]) * 7) % (shape[1] + 1) - 1
    results = []
    for function in (cache_retrieval, cache_retrieval_reference):
        scores = scores_of(function, **inputs, **fixed)
        grad = torch.randn(scores.shape, generator=generator(1), dtype=scores.dtype)
        results.append([scores, *torch.autograd.grad((scores * grad).sum(), list(inputs.values()))])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [3, 40])
def test_one_hot_values_are_labels(rows: int) -> None:
    queries, keys, labels = make((rows, 90, 7, 20))
    values = torch.nn.functional.one_hot(labels, 7).double()
    expected = scores_of(cache_retrieval, queries, keys, labels, 3.0, num_classes=7)
    torch.testing.assert_close(scores_of(cache_retrieval, queries, keys, values=values, beta=3.0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(4, 200, 10, 96), (70, 1100, 13, 100)], ids=str)
def test_error_is_at_most_twice_that_of_eager(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    def draw(seed: int) -> Draw:
        def through(function: Callable[..., Any]) -> Callable[..., dict[str, Tensor]]:
            return lambda **tensors: {"scores": function(**tensors, beta=5.5)}

        drawn = draw_of(
            through(cache_retrieval), through(cache_retrieval_reference), inputs_of(shape, dtype, seed), seed
        )
        assert drawn.ours["scores"].dtype == torch.float32
        return drawn

    assert_accurate(draw)


@pytest.mark.parametrize("wanted", ["values", "beta"])
def test_a_gradient_alone_is_that_of_all(wanted: str) -> None:
    inputs = inputs_of((33, 80, 6, 11), torch.float32) | {"beta": torch.tensor(2.0)}

    def gradient(names: list[str]) -> Tensor:
        tensors = {name: x.clone().requires_grad_(name in names) for name, x in inputs.items()}
        scores_of(cache_retrieval, **tensors).square().sum().backward()
        grad = tensors[wanted].grad
        assert grad is not None
        return grad

    assert torch.equal(gradient([wanted]), gradient(list(inputs)))


def test_compiles_into_one_graph() -> None:
    inputs = {name: x.requires_grad_() for name, x in inputs_of((6, 9, 4, 5), torch.float32).items()}
    compiled = torch.compile(cache_retrieval, fullgraph=True, backend="aot_eager")
    results = []
    for function in (cache_retrieval, compiled):
        scores = scores_of(function, **inputs, beta=2.0)
        results.append([scores, *torch.autograd.grad(scores.square().sum(), list(inputs.values()))])
    torch.testing.assert_close(*results)


BAD_CALLS = [
    ({"labels": torch.tensor([0, 1, 2, 0, 1])}, "labels and values are both given"),
    ({"values": None}, "labels are not given, nor are values"),
    ({"beta": None}, "beta must be given"),
    ({"values": torch.zeros(4, 3)}, "values has 4 rows but keys has 5"),
    ({"values": torch.zeros(5)}, "values must be a float32, float64, bfloat16 or float16 matrix"),
    ({"values": torch.zeros(5, 3, dtype=torch.float64)}, "values is float64"),
    ({"num_classes": 4}, "num_classes is 4 but values is"),
    ({"text_queries": torch.zeros(3, 2)}, "values are given together with a text stream"),
    ({"return_disagreement": True}, "values are given together with a text stream"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS, ids=[message[:40] for _, message in BAD_CALLS])
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = inputs_of((3, 5, 3, 6), torch.float32) | {"beta": 2.0}
    with pytest.raises(InputError, match=message):
        cache_retrieval(**(arguments | change))


WRONG_TYPES: dict[str, tuple[dict[str, Any], str]] = {
    "a list": ({"values": [[1.0]]}, "values is a list: give a tensor"),
    "sparse": ({"values": torch.eye(3).to_sparse()}, r"values is torch\.sparse_coo: pass values\.to_dense"),
    "a word": ({"beta": "3"}, "beta is a str: give a number or a tensor"),
    "NaN": ({"beta": float("nan")}, "beta is nan: give a finite number"),
}


@pytest.mark.parametrize("case", WRONG_TYPES)
def test_a_wrong_type_is_one_sentence(case):
    wrong, message = WRONG_TYPES[case]
    good: dict[str, Any] = {"queries": torch.eye(3), "keys": torch.eye(3), "values": torch.eye(3), "beta": 2.0}
    with pytest.raises(InputError, match=message):
        cache_retrieval(**{**good, **wrong})
