"""Whether rivals compute the same: no time is taken of one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def record_error(benchmark: Any, results: Sequence[Tensor], exact: Sequence[Tensor], tolerance: float) -> None:
    """Keeps the largest difference as a share of the largest value, and fails where it is beyond ``tolerance``."""
    pairs = zip(results, exact, strict=True)
    error = max(((result - truth).abs().max() / truth.abs().max()).item() for result, truth in pairs)
    benchmark.extra_info["error"] = error
    assert error < tolerance, f"{benchmark.group}: an error of {error:.1e}"
