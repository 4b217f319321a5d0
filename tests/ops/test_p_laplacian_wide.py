"""Features as wide as a head, with pairs that are close, or coincide, in some tiles and in all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import UNIT, Draw, assert_accurate, draw_of, median_error
from tests.ops.draw import generator
from tests.ops.test_p_laplacian import SCORES, Data, gradients, gram_eager
from vlmadapt.ops import p_laplacian_attention, p_laplacian_attention_reference

# Queries and keys are more than a block and a tile; features odd, of whole vectors, and a head's usual.
WIDTHS = [31, 32, 33, 64, 128]
KINDS = ["unrelated", "close", "all close", "coincident"]


def data_of(kind: str, features: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Data:
    """ "close": a few pairs, in some tiles only; "all close": a common offset."""
    data = Data((1, 2, 70, 150, 16, 8, features), dtype, seed)
    noise = torch.randn(data.x_value.shape, generator=generator(seed + 5), dtype=torch.float64).to(dtype)
    if kind == "close":
        data.x_value[:, :, 40:43] = data.x_query[:, :, 50:53] + 1e-3 * noise[:, :, 40:43]
    if kind == "all close":
        data.x_query, data.x_value = (x / 10 + 3 for x in (data.x_query, data.x_value))
    if kind == "coincident":
        data.x_value[:, :, 10:60] = data.x_query[:, :, 10:60]
    return data


@pytest.mark.parametrize("features", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_results_and_gradients_equal_the_reference(features: int, kind: str) -> None:
    results, homogeneous = [], features == 33
    for function in (p_laplacian_attention, p_laplacian_attention_reference):
        inputs = data_of(kind, features).inputs(SCORES)
        out, context, lse = function(**inputs, homogeneous=homogeneous, return_lse=True)
        assert context is not None and lse is not None
        results.append([out, context, lse, *gradients(inputs, out, context, lse)])
    for ours, expected in zip(*results, strict=True):
        size = expected.abs().max().clamp(min=1)
        torch.testing.assert_close(ours / size, expected / size, rtol=0, atol=1e-10)


def test_squares_that_overflow() -> None:
    """Though distances do not: products of such features are infinite, differences are not."""
    data = data_of("unrelated", 64, torch.float32)
    data.x_query, data.x_value = (3e19 + 1e17 * x for x in (data.x_query, data.x_value))
    inputs = data.inputs(SCORES, False) | {"p": torch.full((2,), 1.25)}
    exact = p_laplacian_attention_reference(**{name: x.double() for name, x in inputs.items()}).out
    torch.testing.assert_close(p_laplacian_attention(**inputs).out.double(), exact, rtol=1e-5, atol=0)


def difference_eager(query: Tensor, key: Tensor, value: Tensor, **nodes: Any) -> dict[str, Tensor]:
    return {"out": p_laplacian_attention_reference(query, key, value=value, **nodes).out}


def ours(**inputs: Any) -> dict[str, Tensor]:
    return {"out": p_laplacian_attention(**inputs).out}


def drawn(kind: str, p: float, seed: int, eager: Any, dtype: torch.dtype = torch.float32) -> Draw:
    inputs = data_of(kind, 64, dtype, seed).inputs(SCORES, False)
    vectors = {"p": torch.full((2,), p), "mu": torch.full((2,), 0.125)}
    return draw_of(ours, eager, inputs | vectors, seed)


@pytest.mark.parametrize("p", [1.25, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_is_at_most_twice_that_of_eager(p: float, dtype: torch.dtype) -> None:
    def eager(**inputs: Tensor) -> dict[str, Tensor]:
        return {"out": gram_eager(**inputs)[0]}

    assert_accurate(lambda seed: drawn("unrelated", p, seed, eager, dtype))


@pytest.mark.parametrize("kind", ["unrelated", "close", "all close"])
@pytest.mark.parametrize("p", [1.25, 3.0])
def test_error_is_at_most_that_of_differences(kind: str, p: float) -> None:
    """Of results. Gradients are held to three times: eager sums in a tree, the kernel in chains, and where features
    share an offset, the products of the upstream gradient with features and with results cancel."""
    draws = [drawn(kind, p, seed, difference_eager) for seed in range(5)]
    for name in draws[0].ours:
        exact = [each.exact[name] for each in draws]
        own, other, moved = (
            median_error([getattr(each, which)[name] for each in draws], exact) for which in ("ours", "eager", "moved")
        )
        noise = moved + UNIT * median_error(exact, [torch.zeros(())] * len(exact))
        allowed = max(other, noise) * (1 if name == "out" else 3)
        assert own <= allowed, f"{name}: median error {own:.3g}, {other:.3g} by differences, noise {noise:.3g}"
