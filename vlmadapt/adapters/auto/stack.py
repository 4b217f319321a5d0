"""From the logits of several methods on samples they have not seen: a temperature each, and a mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlmadapt.training import best_temperature, log_probabilities

STEPS = 300  # of expectation maximisation; it has settled long before


@dataclass(frozen=True)
class Mixture:
    """``temperatures`` and ``weights``, float64 ``[M]`` each; the weights sum to 1. ``whole`` is the temperature of the
    mixture itself: methods that are calibrated one by one are too modest together."""

    temperatures: Tensor
    weights: Tensor
    whole: float = 1.0

    def logits(self, logits: Callable[[int], Tensor]) -> Tensor:
        """Of each class ``[B, C]``, from the logits ``[B, C]`` of each method ``m`` in turn."""
        total: Tensor | None = None
        for m, (temperature, weight) in enumerate(zip(self.temperatures.tolist(), self.weights.tolist(), strict=True)):
            part = weight * (logits(m) / temperature).softmax(-1)
            total = part if total is None else total + part
        assert total is not None
        return total.clamp(min=torch.finfo(total.dtype).tiny).log() / self.whole


def mixture_weights(chances: Tensor, prior: float) -> Tensor:
    """Weights ``[M]`` of largest likelihood times Dirichlet prior, from the probability ``[M, n]`` of each right class.

    ``prior`` 1 is no prior; above it, every method gets ``prior - 1`` samples more, so that few samples decide little.
    """
    methods, count = chances.shape
    weights = chances.new_full((methods,), 1 / methods)
    for _ in range(STEPS):
        shares = weights[:, None] * chances
        weights = (shares / shares.sum(0)).sum(1) + prior - 1
        weights = weights / (count + methods * (prior - 1))
    return weights


def stack(logits: Sequence[Sequence[Tensor]], labels: Sequence[Tensor], prior: float) -> Mixture:
    """The mixture of the methods whose ``logits[m]``, tiles ``[b, C]``, are those of held-out ``labels``."""
    temperatures = [best_temperature(parts, labels) for parts in logits]
    chances = [
        torch.cat([log_probabilities(part / t, right).exp() for part, right in zip(parts, labels, strict=True)])
        for parts, t in zip(logits, temperatures, strict=True)
    ]
    mixture = Mixture(
        torch.tensor(temperatures, dtype=torch.float64), mixture_weights(torch.stack(chances), prior).cpu()
    )
    together = [mixture.logits([parts[tile] for parts in logits].__getitem__) for tile in range(len(labels))]
    return replace(mixture, whole=best_temperature(together, labels))
