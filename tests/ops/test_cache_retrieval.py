"""The fused operator against its plain-PyTorch reference."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.draw import generator, unit_rows
from vlmadapt.errors import InputError
from vlmadapt.ops import (
    PreparedCache,
    cache_retrieval,
    cache_retrieval_grid,
    cache_retrieval_multi_beta,
    cache_retrieval_reference,
)

MODULE = importlib.import_module("vlmadapt.ops.cache_retrieval.function")

# queries, entries, classes, width: one, odd, empty, a full tile and one more, dot-product path, several chunks.
SHAPES = [
    (1, 1, 1, 1),
    (3, 17, 5, 7),
    (4, 40, 6, 513),
    (5, 40, 6, 13),
    (16, 28, 5, 32),
    (33, 29, 9, 65),
    (0, 10, 3, 8),
    (6, 0, 3, 8),
    (6, 9, 3, 0),
    (70, 1100, 4, 19),
    (2, 1500, 700, 31),
    (300, 700, 40, 24),
]


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    queries, entries, classes, width = shape
    source = generator(seed)
    labels = torch.randint(0, classes, (entries,), generator=source)
    if classes > 2:
        labels[labels == 1] = 2  # class 1 has no entries
    return unit_rows(source, queries, width, dtype), unit_rows(source, entries, width, dtype), labels


def two_streams(shape: tuple[int, ...], per_class: bool, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    queries, entries, classes, _ = shape
    source = generator(7)
    return {
        "text_queries": unit_rows(source, queries, 11, dtype),
        "text_keys": unit_rows(source, classes if per_class else entries, 11, dtype),
        "text_beta": 1.7,
        "text_keys_per_class": per_class,
        "ratio": torch.rand(queries, generator=source, dtype=torch.float64),
    }


def scores_of(function: Callable[..., Any], *args: Any, **options: Any) -> Tensor:
    """The scores, which come alone where the disagreement is not asked for."""
    scores = function(*args, **options)
    assert isinstance(scores, Tensor)
    return scores


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_equal_the_formula(shape: tuple[int, ...]) -> None:
    queries, keys, labels = make(shape)
    scores = scores_of(cache_retrieval, queries, keys, labels, 5.5, num_classes=shape[2])
    expected = torch.zeros_like(scores)
    for k in range(shape[1]):
        expected[:, labels[k]] += torch.exp(-5.5 * (1 - queries @ keys[k]))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("own", ["none", "disagreement", "scores"])
@pytest.mark.parametrize("standardize", [False, True])
def test_two_streams_and_gradients_equal_the_reference(
    shape: tuple[int, ...], per_class: bool, own: str, standardize: bool
) -> None:
    if shape[1] == 0 and standardize:
        pytest.skip("a mean over no entries is undefined")
    queries, keys, labels = make(shape)
    options = two_streams(shape, per_class)
    if own != "none" and shape[1]:
        options["own_entry"] = (torch.arange(shape[0]) * 7) % (shape[1] + 1) - 1
        options["mask_own_scores"] = own == "scores"
    beta = torch.linspace(1, 3, shape[0], dtype=torch.float64)
    inputs: dict[str, Any] = {
        "queries": queries,
        "keys": keys,
        "beta": beta,
        "text_beta": torch.tensor(1.7, dtype=torch.float64),
    }
    inputs |= {name: options[name] for name in ("text_queries", "text_keys", "ratio")}
    for tensor in inputs.values():
        tensor.requires_grad_()
    fixed = {name: value for name, value in options.items() if name not in inputs}
    results = []
    for function in (cache_retrieval, cache_retrieval_reference):
        scores, disagreement = function(
            labels=labels, num_classes=shape[2], standardize=standardize, return_disagreement=True, **inputs, **fixed
        )
        grad = torch.randn(scores.shape, generator=generator(1), dtype=scores.dtype)
        results.append([scores, disagreement, *torch.autograd.grad((scores * grad).sum(), list(inputs.values()))])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(4, 200, 10, 96), (70, 1100, 13, 100)], ids=str)
def test_error_is_at_most_twice_that_of_eager(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    def draw(seed: int) -> Draw:
        queries, keys, labels = make(shape, dtype, seed)

        def through(function: Callable[..., Any]) -> Callable[..., dict[str, Tensor]]:
            return lambda **streams: {"scores": function(**streams, labels=labels, beta=5.5, num_classes=shape[2])}

        drawn = draw_of(
            through(cache_retrieval),
            through(cache_retrieval_reference),
            {"queries": queries, "keys": keys},
            seed,
            in_narrow=dtype == torch.bfloat16 and len(queries) > 4,  # on a CPU weights are rounded to bfloat16 then
        )
        assert drawn.ours["scores"].dtype == torch.float32
        return drawn

    assert_accurate(draw)


@pytest.mark.parametrize("rows", [3, 40])
def test_nan_and_infinity_do_not_pass_silently(rows: int) -> None:
    queries, keys, labels = make((rows, 30, 4, 9), torch.float32)
    queries[1, 3] = float("nan")
    keys[5, 0] = float("nan")
    scores = scores_of(cache_retrieval, queries, keys, labels, 2.0, num_classes=4)
    assert scores[1, labels.unique()].isnan().all()
    assert scores[:, labels[5]].isnan().all()
    untouched = [c for c in labels.unique().tolist() if c != labels[5]]
    assert scores[0, untouched].isfinite().all()


def test_extreme_exponents() -> None:
    one = torch.ones(1, 1)
    low = scores_of(cache_retrieval, one, -one, torch.tensor([0]), 1e4, num_classes=1)
    high = scores_of(cache_retrieval, one, 2 * one, torch.tensor([0]), 1e4, num_classes=1)
    assert low.item() == 0 and high.item() == float("inf")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(1, 5, 2, 3), (45, 300, 12, 24), (33, 29, 9, 65)], ids=str)
def test_grid_equals_the_exhaustive_search(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    queries, keys, labels = make(shape, dtype)
    source = generator(5)
    base = torch.randn(shape[0], shape[2], generator=source, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, shape[2], (shape[0],), generator=source)
    betas, alphas = torch.linspace(0.5, 8, 7, dtype=dtype), torch.linspace(0, 4, 5, dtype=dtype)
    accuracy = cache_retrieval_grid(queries, keys, labels, betas, alphas, base, targets, num_classes=shape[2])
    scores = cache_retrieval_multi_beta(queries, keys, labels, betas, num_classes=shape[2])
    for g, a in itertools.product(range(7), range(5)):
        one = scores_of(cache_retrieval_reference, queries, keys, labels, betas[g], num_classes=shape[2])
        torch.testing.assert_close(scores[g], one, rtol=1e-5, atol=1e-6)
        logits = base + alphas[a] * one
        assert accuracy[g, a] == (logits.argmax(-1) == targets).double().mean()


def test_grid_breaks_ties_towards_the_lowest_class() -> None:
    queries, keys = torch.ones(1, 2), torch.ones(2, 2)
    grid = (torch.tensor([1.0]), torch.tensor([1.0]), torch.zeros(1, 2))
    first = cache_retrieval_grid(queries, keys, torch.tensor([0, 1]), *grid, torch.tensor([0]), num_classes=2)
    second = cache_retrieval_grid(queries, keys, torch.tensor([0, 1]), *grid, torch.tensor([1]), num_classes=2)
    assert first.item() == 1 and second.item() == 0


def test_grid_counts_nan_as_wrong() -> None:
    queries = torch.full((1, 2), float("nan"))
    grid = (torch.tensor([1.0]), torch.tensor([1.0]), torch.zeros(1, 2))
    accuracy = cache_retrieval_grid(
        queries, torch.ones(2, 2), torch.tensor([0, 1]), *grid, torch.tensor([0]), num_classes=2
    )
    assert accuracy.item() == 0


def test_prepared_cache_sorts_stably() -> None:
    cache = PreparedCache(torch.tensor([3, 0, 3, 1, 0], dtype=torch.int32), 5)
    assert cache.order.tolist() == [1, 4, 3, 0, 2]
    assert cache.offsets.tolist() == [0, 2, 3, 3, 5, 5]
    assert cache.counts().tolist() == [2, 1, 0, 2, 0]


BAD_CALLS = [
    ({"labels": torch.tensor([0, 1, 2, 3, 9])}, r"labels hold 9 but must lie in \[0, 3\]"),
    ({"labels": torch.tensor([0, -2, 2, 3, 1])}, "labels hold -2"),
    ({"labels": torch.tensor([0, 1])}, "labels has 2 elements but keys has 5 rows"),
    ({"num_classes": None}, "num_classes must be given"),
    ({"num_classes": 0}, "num_classes is 0"),
    ({"queries": torch.zeros(3, 4)}, "keys is 6 wide but queries is 4 wide"),
    ({"own_entry": torch.tensor([0, 1, 5])}, "own_entry holds 5 but the cache has 5 entries"),
    ({"text_queries": torch.zeros(3, 2)}, "a text stream needs text_queries, text_keys and text_beta"),
    (
        {"text_queries": torch.zeros(3, 2), "text_keys": torch.zeros(4, 2), "text_beta": 1.0, "ratio": 0.5},
        "and 5 are needed",
    ),
    ({"text_queries": torch.zeros(3, 2), "text_keys": torch.zeros(5, 2), "text_beta": 1.0}, "ratio must be given"),
    ({"return_disagreement": True}, "return_disagreement needs two streams"),
    ({"route": "dense"}, "route is 'dense': choose 'auto', 'fused' or 'chunked'"),
    ({"route": "chunked", "labels": None, "values": torch.zeros(5, 4)}, "values are given, which have one route"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS, ids=[message[:40] for _, message in BAD_CALLS])
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    if torch.get_default_device().type == "cuda" and "own_entry" in change:
        pytest.skip("a GPU's values are not looked at: see test_no_waiting.py")
    arguments: dict[str, Any] = {
        "queries": torch.zeros(3, 6),
        "keys": torch.zeros(5, 6),
        "labels": torch.tensor([0, 1, 2, 3, 1]),
        "beta": 2.0,
        "num_classes": 4,
    }
    with pytest.raises(InputError, match=message):
        cache_retrieval(**(arguments | change))
