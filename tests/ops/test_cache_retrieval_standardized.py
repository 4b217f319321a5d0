"""Standardised similarities that vary little or not at all: rounding is no deviation, and is not made one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.calls import results_and_gradients
from tests.ops.draw import generator, unit_rows
from vlmadapt.ops import cache_retrieval, cache_retrieval_reference

WIDTH, CLASSES = 512, 3


def equal_keys(count: int) -> Callable[[torch.Generator], Tensor]:
    return lambda source: unit_rows(source, 1, WIDTH).expand(count, WIDTH)


def close_keys(distance: float) -> Callable[[torch.Generator], Tensor]:
    return lambda source: unit_rows(source, 1, WIDTH) + distance * unit_rows(source, 9, WIDTH)


CACHES: dict[str, Callable[[torch.Generator], Tensor]] = {
    "one entry": equal_keys(1),
    "two equal": equal_keys(2),
    "three equal": equal_keys(3),
    "four equal": equal_keys(4),
    "a thousand equal": equal_keys(1000),
    "long and equal": lambda source: 300 * equal_keys(5)(source),
    "an ulp apart": close_keys(3e-8),
    "close": close_keys(1e-3),
    "two": lambda source: unit_rows(source, 2, WIDTH),
    "orthogonal to a query": lambda source: unit_rows(source, 9, WIDTH) * (torch.arange(WIDTH) > 99),
}


def inputs_of(cache: str, seed: int, text: str, dtype: torch.dtype) -> dict[str, Any]:
    source = generator(seed)
    keys = CACHES[cache](source).to(dtype)
    queries = unit_rows(source, 4, WIDTH).to(dtype)
    queries[0] = torch.where(torch.arange(WIDTH) > 99, 0, queries[0])
    labels = torch.arange(len(keys)) % (1 if text == "a class" else CLASSES)
    inputs: dict[str, Any] = {"queries": queries, "keys": keys.clone(), "beta": torch.tensor(1.5).to(dtype)}
    if text:
        text_keys = keys.roll(5, 1) if text == "an entry" else unit_rows(source, 1, WIDTH, dtype).repeat(CLASSES, 1)
        inputs |= {"text_queries": queries.flip(0), "text_keys": text_keys.clone()}
        inputs |= {"text_beta": torch.tensor(2.0).to(dtype), "ratio": torch.tensor(0.25).to(dtype)}
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    return inputs | {"labels": labels, "num_classes": CLASSES, "text_keys_per_class": text == "a class"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("text", ["", "an entry", "a class"])
@pytest.mark.parametrize("cache", CACHES)
def test_scores_and_gradients_are_those_of_the_reference_in_float64(cache: str, text: str, dtype: torch.dtype) -> None:
    for seed in range(3):
        inputs = inputs_of(cache, seed, text, dtype)
        exact = {n: x.detach().double().requires_grad_() if n != "labels" and isinstance(x, Tensor) else x
                 for n, x in inputs.items()}  # fmt: skip
        (ours,), gradients = results_and_gradients(cache_retrieval, inputs | {"standardize": True})
        (expected,), truth = results_and_gradients(cache_retrieval_reference, exact | {"standardize": True})
        torch.testing.assert_close(ours.double(), expected, rtol=2e-5, atol=1e-6)
        allowed = max(1e-5, torch.finfo(dtype).eps)
        for x, wanted in zip(gradients, truth, strict=True):
            # Of two keys it is zero: the difference of terms that one over a small deviation multiplies.
            largest = max(100 if cache == "two" else 1, wanted.abs().max().item())
            torch.testing.assert_close(x.double(), wanted, rtol=allowed, atol=allowed * largest)


@pytest.mark.parametrize("cache", ["one entry", "three equal", "a thousand equal", "long and equal"])
def test_similarities_that_do_not_vary_are_all_the_mean(cache: str) -> None:
    inputs = inputs_of(cache, 0, "", torch.float32)
    counts = torch.bincount(inputs["labels"], minlength=CLASSES)
    expected = (counts * torch.tensor(-1.5).exp()).expand(4, CLASSES)
    for function in (cache_retrieval, cache_retrieval_reference):
        torch.testing.assert_close(function(**inputs, standardize=True), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("stray", [1e4, 1e30, torch.inf, torch.nan])
def test_the_key_of_a_class_without_entries_takes_no_part(stray: float, standardize: bool) -> None:
    """Its affinity may well be infinite: the similarities of two entries that are close deviate little."""
    source = generator(0)
    keys = unit_rows(source, 2, WIDTH)
    text_keys = unit_rows(source, 1, WIDTH) + 1e-4 * unit_rows(source, CLASSES, WIDTH)
    text_keys[1] = stray
    queries = unit_rows(source, 4, WIDTH)
    given: dict[str, Any] = {"queries": queries, "keys": keys, "beta": torch.tensor(1.5)}
    given |= {"text_queries": queries.flip(0), "text_keys": text_keys}
    given |= {"text_beta": torch.tensor(2.0), "ratio": torch.tensor(0.25)}
    given = {name: tensor.double().requires_grad_() for name, tensor in given.items()}
    given |= {"labels": torch.tensor([0, 2]), "num_classes": CLASSES, "text_keys_per_class": True}
    ours, gradients = results_and_gradients(cache_retrieval, given | {"standardize": standardize})
    expected, truth = results_and_gradients(cache_retrieval_reference, given | {"standardize": standardize})
    assert all(x.isfinite().all() for x in [*ours, *gradients])
    assert not gradients[list(given).index("text_keys")][1].any()
    for x, wanted in zip([*ours, *gradients], [*expected, *truth], strict=True):
        torch.testing.assert_close(x, wanted, rtol=1e-7, atol=1e-7 * max(1, wanted.abs().max().item()))
