"""The check of accuracy itself: it fails what loses two digits and passes errors of eager's own size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.draw import generator

SEEDS, SIZE = range(50), 24


def product(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {"out": a @ b}


def draws(change: Callable[[Tensor, torch.Generator], Tensor], seed: int, dtype: torch.dtype) -> Callable[[int], Draw]:
    """Sums of products; ours are the true results, changed and rounded to ``dtype``."""

    def draw(number: int) -> Draw:
        source = generator(1000 * seed + number)
        inputs = {n: torch.randn(SIZE, SIZE, generator=source).to(dtype) for n in "ab"}
        drawn = draw_of(product, product, inputs, number)
        drawn.ours = {name: change(x, source).to(dtype) for name, x in drawn.exact.items()}
        return drawn

    return draw


def relative(size: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda x, source: x * (1 + size * torch.randn(x.shape, generator=source, dtype=torch.float64))


def test_two_digits_fewer_fail() -> None:
    for seed in SEEDS:
        with pytest.raises(AssertionError, match="median error"):
            assert_accurate(draws(relative(100 * 2.0**-23), seed, torch.float32))


def test_noise_of_the_size_of_eagers_passes() -> None:
    """Our sums are eager's in another order."""

    def reordered(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        order = torch.randperm(SIZE, generator=generator(0))
        return product(a[:, order], b[order])

    for seed in SEEDS:

        def draw(number: int, seed: int = seed) -> Draw:
            source = generator(1000 * seed + number)
            return draw_of(reordered, product, {n: torch.randn(SIZE, SIZE, generator=source) for n in "ab"}, number)

        assert_accurate(draw)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_one_rounding_of_half_types_passes_and_two_fail(dtype: torch.dtype) -> None:
    for seed in SEEDS[:10]:
        assert_accurate(draws(relative(2.0**-24), seed, dtype))
        with pytest.raises(AssertionError):
            assert_accurate(draws(relative(torch.finfo(dtype).eps / 2), seed, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_wrong_element_in_one_draw_fails(dtype: torch.dtype) -> None:
    """What no median sees."""
    times = []

    def spoilt(x: Tensor, source: torch.Generator) -> Tensor:
        times.append(x)
        wrong = x.clone()
        if len(times) == 4:
            wrong[5, 7] += 1e-3 if dtype == torch.float32 else 0.2
        return wrong

    with pytest.raises(AssertionError, match="times the noise in draw"):
        assert_accurate(draws(spoilt, 0, dtype))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_results_that_are_no_numbers_fail(value: float) -> None:
    def spoilt(x: Tensor, source: torch.Generator) -> Tensor:
        return x.index_fill(0, torch.tensor([3]), value)

    with pytest.raises(AssertionError):
        assert_accurate(draws(spoilt, 0, torch.float32))
