"""What is measured on test pictures: a further measure is one more entry here, and in every file and table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from vlmadapt.training import accuracy

MAIN = "accuracy"  # the measure of curves and differences

# Each takes class logits [n, C] and labels [n] on the CPU and gives a fraction.
MEASURES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {MAIN: accuracy}


def measure(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Every measure of ``logits [n, C]`` against ``labels [n]``, as fractions by name."""
    return {name: float(of(logits.cpu(), labels.cpu())) for name, of in MEASURES.items()}
