"""Inputs shared by the tests of every operator: shapes that break kernels, and unit rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def generator(seed: int) -> torch.Generator:
    """Seeded, on the device under test."""
    return torch.Generator(device=torch.get_default_device()).manual_seed(seed)


def unit_rows(source: torch.Generator, rows: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normalised random rows; width 0 gives empty rows."""
    matrix = torch.randn(rows, width, generator=source, dtype=torch.float64)
    return (normalize(matrix, dim=-1) if width else matrix).to(dtype)


def identical_at_thread_counts(run: Callable[[], list[Tensor]]) -> None:
    """Assert that the tensors are bit-identical at every number of threads, and from run to run."""
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, threads, threads):
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
