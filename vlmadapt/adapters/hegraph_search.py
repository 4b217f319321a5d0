"""HeGraphAdapter's fusion of its two classifiers, and the validation search of fusion and coefficients.

All ours: the fusion with its beta and weight first, then the scales of the messages with that fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmadapt.adapters.checks import Samples
from vlmadapt.ops import cache_retrieval_grid, cache_retrieval_multi_beta
from vlmadapt.training import accuracy, choose_in_grid, log_grid, log_likelihood, smoothed_hits

if TYPE_CHECKING:
    from vlmadapt.adapters.hegraph_adapter import HeGraphAdapter

TEXT_SCALES = (0.0, 0.5, 1.0, 1.5, 2.0)
NEGATIVE_FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0)
TIES_AT_ONCE = 64  # logits of tied cells held at a time


@dataclass(frozen=True)
class Fusion:
    """How the classifiers are fused: by ``probability`` or by logit, at sharpness ``beta``, with a ``weight``."""

    probability: bool
    beta: float
    weight: float

    def of(self, text_logits: Tensor, scores: Tensor, visual_scale: float) -> Tensor:
        """Text logits and class scores at this ``beta``, both ``[..., B, C]`` -> logits."""
        return fuse(self.probability, scores.new_tensor(self.weight), text_logits, scores, visual_scale)


def fuse(probability: bool, weight: Tensor, text_logits: Tensor, scores: Tensor, visual_scale: float) -> Tensor:
    """``log((softmax(L) + weight softmax(tau_v S)) / (1 + weight))``, or ``L + weight S``; all broadcast."""
    if not probability:
        return text_logits + weight * scores
    visual = (visual_scale * scores).log_softmax(-1) + weight.log()
    return torch.logaddexp(text_logits.log_softmax(-1), visual) - weight.log1p()


class _Grid:
    """One kind of fusion over its betas and weights, on validation samples."""

    def __init__(self, adapter: HeGraphAdapter, samples: Samples, text_logits: Tensor, probability: bool):
        config = adapter.config
        self.adapter, self.samples, self.text_logits, self.probability = adapter, samples, text_logits, probability
        self.betas = log_grid(*config.search_beta)
        self.weights = log_grid(*(config.search_w if probability else config.search_alpha))

    def scores(self) -> Tensor:
        """Class scores ``[G, B, C]`` at every beta."""
        adapter = self.adapter
        return cache_retrieval_multi_beta(self.samples.features, adapter.keys, adapter._cache(), self.betas)

    def accuracies(self) -> Tensor:
        """``[G, A]``."""
        adapter, samples, text = self.adapter, self.samples, self.text_logits
        if not self.probability:
            return cache_retrieval_grid(
                samples.features, adapter.keys, adapter._cache(), self.betas, self.weights, text, samples.labels
            )
        # The largest probability is the largest sum: no logarithm is needed to count right answers.
        weights = self.weights.to(text)[:, None, None]
        visual = (adapter.visual_scale * self.scores()).softmax(-1)
        return torch.stack([accuracy(text.softmax(-1) + weights * part, samples.labels) for part in visual])

    def best(self) -> tuple[Fusion, tuple[float, float]]:
        """The chosen fusion, with its smoothed hits and log-likelihood."""
        hits, scores = self.accuracies(), self.scores()

        def likelihoods(rows: Tensor, columns: Tensor) -> Tensor:
            weights = self.weights.to(scores)[columns]
            cells = zip(rows.split(TIES_AT_ONCE), weights.split(TIES_AT_ONCE), strict=True)
            scale = self.adapter.visual_scale
            return torch.cat(
                [
                    log_likelihood(
                        fuse(self.probability, weight[:, None, None], self.text_logits, scores[g], scale),
                        self.samples.labels,
                    )
                    for g, weight in cells
                ]
            )

        g, a = choose_in_grid(hits, len(self.samples), likelihoods)
        around = float(smoothed_hits(hits, len(self.samples))[g, a])
        likelihood = float(likelihoods(torch.tensor([g]), torch.tensor([a])))
        return Fusion(self.probability, float(self.betas[g]), float(self.weights[a])), (around, likelihood)


def _grids(adapter: HeGraphAdapter, samples: Samples, text_logits: Tensor) -> Sequence[_Grid]:
    kinds = {"probability": (True,), "logit": (False,), "search": (True, False)}[adapter.config.fusion]
    return [_Grid(adapter, samples, text_logits, kind) for kind in kinds]


def best_accuracy(adapter: HeGraphAdapter, samples: Samples) -> tuple[float, ...]:
    """What an epoch is worth: right answers around the best cell of any fusion, for its nodes and keys."""
    text_logits = adapter.text_logits(samples.features, adapter.text_nodes)
    grids = _grids(adapter, samples, text_logits)
    return (max(float(smoothed_hits(grid.accuracies(), len(samples)).max()) for grid in grids),)


@torch.no_grad()
def search(adapter: HeGraphAdapter, samples: Samples) -> None:
    """Set the adapter's fusion and message scales to those that validate best."""
    config = adapter.config
    text_logits = adapter.text_logits(samples.features, adapter.text_nodes)
    fusion, _ = max((grid.best() for grid in _grids(adapter, samples, text_logits)), key=lambda found: found[1])
    scores = cache_retrieval_multi_beta(samples.features, adapter.keys, adapter._cache(), torch.tensor([fusion.beta]))
    updates = adapter.updates()
    scales = [factor * config.negative_to_positive for factor in NEGATIVE_FACTORS]
    rows = [
        torch.stack(
            [
                fusion.of(
                    adapter.text_logits(samples.features, adapter.adapted_text(updates, text_scale, scale)),
                    scores[0],
                    adapter.visual_scale,
                )
                for scale in scales
            ]
        )
        for text_scale in TEXT_SCALES
    ]
    hits = torch.stack([accuracy(row, samples.labels) for row in rows])

    def likelihoods(g: Tensor, a: Tensor) -> Tensor:
        cells = zip(g.tolist(), a.tolist(), strict=True)
        return torch.stack([log_likelihood(rows[i][j], samples.labels) for i, j in cells])

    g, a = choose_in_grid(hits, len(samples), likelihoods)
    adapter.set_scalars(fusion, TEXT_SCALES[g], scales[a])
