"""p_laplacian from given probabilities: the tiles and blocks of its own kernels, and their accuracy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.test_p_laplacian import PROBABILITIES, Data, gradients
from vlmadapt.ops import p_laplacian, p_laplacian_reference

# batch, heads, queries, keys, width, value width, features: several tiles of keys, the last one odd; several blocks and
# tasks of queries; more features than a vector has lanes, and not a multiple of eight.
TILES = [(1, 2, 3, 1203, 1, 1, 3), (1, 1, 37, 1100, 1, 1, 8), (1, 2, 300, 9, 1, 1, 8), (2, 1, 131, 140, 1, 1, 21)]
SWITCHES: list[dict[str, Any]] = [{}, {"self_loops": "keep"}, {"homogeneous": True}, {"residual": "none"}]


def results_of(function: Any, inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    out = function(**inputs, **options)
    wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    return {"out": out.detach(), **dict(zip(wanted, gradients(wanted, out), strict=True))}


@pytest.mark.parametrize("shape", TILES, ids=str)
@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_tiles_and_blocks_equal_the_reference(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    if shape[2] > shape[3]:
        options = {name: value for name, value in options.items() if name != "homogeneous"}
    data = Data(shape)
    if shape[3] >= shape[2]:
        data.x_value[:, :, -shape[2] :] = data.x_query  # query i is key i + Lk - Lq
    ours, expected = (
        results_of(f, data.inputs(PROBABILITIES), **options) for f in (p_laplacian, p_laplacian_reference)
    )
    for name in expected:
        torch.testing.assert_close(
            ours[name], expected[name], rtol=1e-8, atol=1e-8, msg=functools.partial("{}: {}".format, name)
        )


@pytest.mark.parametrize("options", SWITCHES, ids=str)
@pytest.mark.parametrize("learned", [True, False])
def test_gradients_at_p_two(options: dict[str, Any], learned: bool) -> None:
    """Without the gradient of p no distances are needed, and none must be used."""
    results = []
    for function in (p_laplacian, p_laplacian_reference):
        inputs = Data((1, 2, 20, 50, 1, 1, 8)).inputs(PROBABILITIES)
        inputs["p"] = torch.full((2,), 2.0, dtype=torch.float64, requires_grad=learned)
        results.append(results_of(function, inputs, **options))
    ours, expected = results
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-9, atol=1e-9)


def gram_eager(attention: Tensor, x_query: Tensor, x_value: Tensor, p: Tensor, mu: Tensor) -> Tensor:
    """The fast way to write it in PyTorch: distances through products."""
    squares = x_query.square().sum(-1, keepdim=True) + x_value.square().sum(-1).unsqueeze(-2)
    distance = (squares - 2 * x_query @ x_value.mT).clamp(min=1e-12)
    p, pull = p.reshape(-1, 1, 1), (2 * mu / p).reshape(-1, 1, 1)
    weights = attention * (attention * distance).pow((p - 2) / 2)
    return (weights @ x_value + pull * x_query) / (weights.sum(-1, keepdim=True) + pull)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("p", [1.0, 1.25, 1.5, 2.0, 2.75, 4.0])
def test_error_is_at_most_twice_that_of_eager(dtype: torch.dtype, p: float) -> None:
    def draw(seed: int) -> Draw:
        inputs = Data((1, 3, 90, 170, 1, 1, 8), dtype, seed).inputs(PROBABILITIES, False)
        vectors = {"p": torch.full((3,), p), "mu": torch.full((3,), 0.125)}

        def through(function: Callable[..., Tensor]) -> Callable[..., dict[str, Tensor]]:
            return lambda **streams: {"out": function(**streams)}

        return draw_of(through(p_laplacian), through(gram_eager), inputs | vectors, seed)

    assert_accurate(draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tiny_and_huge_products_keep_their_powers(dtype: torch.dtype) -> None:
    """log and exp over the whole range: weights differ by tens of orders of magnitude."""
    keys = 41
    exponents = torch.linspace(-20, 0, keys, dtype=dtype)
    attention = (10**exponents).reshape(1, 1, 1, keys)
    x_query = torch.zeros(1, 1, 1, 1, dtype=dtype)
    for scale in (1e-3, 1.0, 1e6):
        x_value = torch.linspace(1, 2, keys, dtype=dtype).reshape(1, 1, keys, 1) * scale
        for p in (1.0, 1.5, 3.0):
            for only in range(0, keys, 5):  # each pair alone, against a pull of its own size
                single = torch.where(torch.arange(keys) == only, attention, 0)
                weight = attention[..., only].double() * (
                    attention[..., only].double() * x_value[:, :, only, 0].double() ** 2
                ).pow((p - 2) / 2)
                ours = p_laplacian(single, x_query, x_value, p, (weight * p / 2).item())
                expected = (x_value[:, :, only] / 2).reshape(ours.shape)
                torch.testing.assert_close(ours, expected, rtol=2e-5 if dtype == torch.float32 else 1e-12, atol=0)


@pytest.mark.parametrize(("p", "mu"), [(1.5, 0.1), (2, 0), (torch.tensor(1.5), 0.1), (1.5, torch.tensor(0.1))], ids=str)
def test_numbers_and_tensors_mean_the_same(p: Tensor | float, mu: Tensor | float) -> None:
    inputs = Data((1, 2, 5, 7, 1, 1, 4)).inputs("attention x_query x_value", False)
    vectors = [torch.full((2,), float(value), dtype=torch.float64) for value in (p, mu)]
    torch.testing.assert_close(p_laplacian(**inputs, p=p, mu=mu), p_laplacian(**inputs, p=vectors[0], mu=vectors[1]))
