"""Random arguments of any operator, and what a case of the battery is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlmadapt import ops

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

Arguments = dict[str, Any]
Sizes = dict[str, int]


def generator(seed: int) -> torch.Generator:
    """Seeded, on the device under test."""
    return torch.Generator(device=torch.get_default_device()).manual_seed(seed)


def unit_rows(source: torch.Generator, rows: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normalised random rows; width 0 gives empty rows."""
    matrix = torch.randn(rows, width, generator=source, dtype=torch.float64)
    return (normalize(matrix, dim=-1) if width else matrix).to(dtype)


class Draw:
    """Random arguments: floats of one type, and the sizes of a case as attributes."""

    def __init__(self, sizes: Sizes, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        self.sizes, self.dtype, self.source = sizes, dtype, generator(seed)

    def __getattr__(self, name: str) -> int:
        return self.sizes[name]

    def floats(self, *shape: int, grad: bool = True) -> Tensor:
        """Normal."""
        tensor = torch.randn(*shape, generator=self.source, dtype=torch.float64)
        return tensor.to(self.dtype).requires_grad_(grad)

    def unit(self, rows: int, width: int, grad: bool = True) -> Tensor:
        return unit_rows(self.source, rows, width, self.dtype).requires_grad_(grad)

    def positive(self, *shape: int, low: float = 0.1, grad: bool = True) -> Tensor:
        """Uniform in [low, low + 0.9)."""
        tensor = torch.rand(shape, generator=self.source, dtype=torch.float64) * 0.9 + low
        return tensor.to(self.dtype).requires_grad_(grad)

    def integers(self, count: int, below: int, low: int = 0) -> Tensor:
        return torch.randint(low, max(below, low + 1), (count,), generator=self.source)

    def edges(self) -> tuple[Tensor, Tensor]:
        """Targets and sources of ``edges`` edges; the first reads source 0, the last target has none if it can."""
        count = self.sizes["edges"] if self.targets and self.num_sources else 0
        rows, columns = self.integers(count, self.targets - 1), self.integers(count, self.num_sources)
        columns[:1] = 0
        return rows, columns

    def relation(self) -> ops.Relation:
        return ops.Relation.from_edges(*self.edges(), self.targets, self.num_sources)[0]


@dataclass(frozen=True)
class Case:
    """A function with arguments for it, and what of the battery does not hold for it.

    ``sizes`` are small enough for gradcheck, ``large`` enough to be split between threads; each size named in ``empty``
    may be 0. Tensors that are differentiable require a gradient.
    """

    function: Callable[..., Any]
    arguments: Callable[[Draw], Arguments]
    sizes: Sizes
    large: Sizes
    empty: tuple[str, ...]
    compiles: bool = True
    blas: bool = False  # torch's products take part: bits depend on strides and the number of threads
    twice: bool = False  # may be differentiated twice
    plain: bool = False  # plain PyTorch that others call: arguments are not checked, autocast rules
    shows_nan: Callable[[list[Tensor]], bool] = lambda results: any(
        bool(x.isnan().any()) for x in results if x.is_floating_point()
    )

    def draw(self, dtype: torch.dtype = torch.float32, **sizes: int) -> Arguments:
        return self.arguments(Draw(self.sizes | sizes, dtype))
