"""HeGraphAdapter's fusion of its two classifiers, and the validation search of fusion and coefficients.

All ours: the fusion with its beta and weight first, then the scales of the messages with that fusion. Candidates are
compared by log-likelihood, which a validation split of one to four pictures a class resolves better than accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vlmadapt.adapters.ranges import Range
from vlmadapt.training import Samples, cell_likelihoods, choose, log_grid

TEXT_SCALES = (1.0, 0.5, 1.5, 0.0, 2.0)  # of equals the first is taken
NEGATIVE_FACTORS = (0.5, 1.0, 0.25, 0.0, 2.0)  # of the coefficient in training


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


class Searched(Protocol):
    """What the search asks of a :class:`HeGraphAdapter`."""

    config: Any
    keys: Tensor
    text_nodes: Tensor
    has_text: bool

    @property
    def visual_scale(self) -> float: ...

    def searched(self, name: str) -> Range: ...

    def _scores_of(self, features: Tensor, keys: Tensor, betas: Tensor) -> Tensor: ...

    def _scores(self, features: Tensor, keys: Tensor, beta: float) -> Tensor: ...

    def text_logits(self, features: Tensor, nodes: Tensor) -> Tensor: ...

    def updates(self) -> Any: ...

    def adapted_text(self, updates: Any, text_scale: float, negative_scale: float) -> Tensor: ...

    def set_scalars(self, fusion: Fusion, text_scale: float, negative_scale: float) -> None: ...


class _AtBetas:
    """What both kinds of fusion are made of, of some validation samples: text logits ``[b, C]`` and class scores
    ``[G, b, C]``. The last ones are kept, for both kinds are asked about the same rows in turn."""

    def __init__(self, adapter: Searched, samples: Samples, stride: int):
        self.adapter, self.samples = adapter, samples
        self.betas = log_grid(*adapter.searched("search_beta"))[::stride]
        self._rows: slice | None = None
        self._found: tuple[Tensor, Tensor]

    def __call__(self, rows: slice) -> tuple[Tensor, Tensor]:
        if rows != self._rows:
            adapter, features = self.adapter, self.samples.features[rows]
            text_logits = adapter.text_logits(features, adapter.text_nodes)
            self._rows, self._found = rows, (text_logits, adapter._scores_of(features, adapter.keys, self.betas))
        return self._found


class _Grid:
    """One kind of fusion over its betas and weights, on validation samples; ``stride`` 2 takes every other one."""

    def __init__(self, at_betas: _AtBetas, probability: bool, stride: int):
        self.at_betas, self.probability = at_betas, probability
        self.adapter, self.samples, self.betas = at_betas.adapter, at_betas.samples, at_betas.betas
        self.weights = log_grid(*self.adapter.searched("search_w" if probability else "search_alpha"))[::stride]

    def likelihoods(self) -> Tensor:
        """Mean log-probability of the labels ``[G, A]``."""
        shape = len(self.betas), len(self.weights)
        g, a = torch.ones(shape).nonzero(as_tuple=True)
        classes, labels = len(self.adapter.text_nodes), self.samples.labels
        return cell_likelihoods(self._at_rows, labels, classes, g, a, held=shape[0]).view(shape)

    def _at_rows(self, rows: slice) -> Any:
        text_logits, scores = self.at_betas(rows)

        def at_beta(g: int) -> Any:
            return lambda a: fuse(
                self.probability,
                self.weights[a].to(scores).view(-1, 1, 1),
                text_logits,
                scores[g],
                self.adapter.visual_scale,
            )

        return at_beta

    def best(self) -> tuple[Fusion, float]:
        """The most likely fusion and its log-likelihood; of equals the smaller beta, then weight."""
        found = self.likelihoods()
        g, a = divmod(int(found.argmax()), len(self.weights))
        return Fusion(self.probability, float(self.betas[g]), float(self.weights[a])), float(found[g, a])


def _grids(adapter: Searched, samples: Samples, stride: int = 1) -> list[_Grid]:
    kinds = {"probability": (True,), "logit": (False,), "search": (True, False)}[adapter.config.fusion]
    at_betas = _AtBetas(adapter, samples, stride)
    return [_Grid(at_betas, kind, stride) for kind in kinds]


def best_likelihood(adapter: Searched, samples: Samples) -> tuple[float, ...]:
    """What an epoch is worth: the log-likelihood of its nodes and keys at their best fusion of a coarse grid."""
    return (max(float(grid.likelihoods().max()) for grid in _grids(adapter, samples, stride=2)),)


@torch.no_grad()
def search(adapter: Searched, samples: Samples) -> None:
    """Set the adapter's fusion and message scales to those that validate best."""
    fusion, _ = max((grid.best() for grid in _grids(adapter, samples)), key=lambda found: found[1])
    updates = adapter.updates()
    trained = adapter.config.negative_to_positive
    candidates = [(scale, factor * trained) for scale in TEXT_SCALES for factor in NEGATIVE_FACTORS]
    if not adapter.has_text:
        candidates = candidates[:1]  # of messages that are not there

    def at_rows(rows: slice) -> Any:
        features = samples.features[rows]
        scores = adapter._scores(features, adapter.keys, fusion.beta)

        def logits(numbers: Tensor) -> Tensor:
            text_logits = torch.stack(
                [
                    adapter.text_logits(features, adapter.adapted_text(updates, *candidates[number]))
                    for number in numbers.tolist()
                ]
            )
            return fusion.of(text_logits, scores, adapter.visual_scale)

        return lambda g: logits

    numbers = torch.arange(len(candidates))
    found = cell_likelihoods(at_rows, samples.labels, len(adapter.text_nodes), torch.zeros_like(numbers), numbers)
    best = choose(numbers.tolist(), lambda number: (float(found[number]),))
    adapter.set_scalars(fusion, *candidates[best])
