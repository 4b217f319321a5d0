"""LP++: a linear probe whose class weights blend a trained vector with the class text; arXiv 2404.02285.

    logit_c = f . (v_c + a_c t_c)        v [C, D] and the blending multipliers a [C] are trained
    loss    = mean cross-entropy over the support samples

As in the paper, v and a take turns in full-batch descent whose step sizes are no hyper-parameters but one over a bound
of the loss's curvature in that block, and v starts at scaled class means. Our bounds, from the curvature of the
softmax, at most 1/2:

    L_v = lambda_max(F^T F / n) / 2            L_a = max_c (mean over i of (f_i . t_c)^2) / 2

Ours too: a starts at tau, so that v = 0 is zero-shot; the scale of the class means and the number of steps, the paper's
only regulariser, are chosen on validation; momentum (Nesterov), restarted when the loss rises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.means import class_means
from vlmadapt.config import AdapterConfig
from vlmadapt.training import Samples, check_range, tiles

SCALES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
SCORE_EVERY = 5


@dataclass(frozen=True, kw_only=True)
class LPPlusPlusConfig(AdapterConfig):
    steps: int = field(default=300, metadata={"help": "steps of each block at most; the best on validation is kept"})
    scale: float = field(
        default=0.2, metadata={"help": "class means over tau at the start of v, without validation samples"}
    )
    search_scale: bool = field(default=True, metadata={"help": "search scale on validation"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "steps", low=0)
        check_range(self, "scale", low=0.0)


class _Part:
    """Some of the ``count`` support samples, with their similarities to the class texts ``[rows, C]``."""

    def __init__(self, features: Tensor, labels: Tensor, text: Tensor, count: int) -> None:
        self.features, self.labels, self.count = features, labels, count
        self.similarity = features @ text.T
        self.rows = torch.arange(len(labels), device=labels.device)

    def logits(self, visual: Tensor, blend: Tensor) -> Tensor:
        return self.features @ visual.T + blend * self.similarity

    def error(self, logits: Tensor) -> Tensor:
        """Gradient of the loss in the logits."""
        error = logits.softmax(-1)
        error[self.rows, self.labels] -= 1
        return error / self.count


class LPPlusPlus(Adapter):
    """A class without samples starts with v = 0, its text feature alone, and is only ever a negative."""

    name = "lp++"
    config_class = LPPlusPlusConfig
    scale: Tensor
    steps: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.visual = nn.Parameter(torch.zeros_like(self.text_features))
        self.blend = nn.Parameter(torch.full_like(self.text_features[:, 0], self.logit_scale))
        self.register_buffer("scale", torch.tensor(self.config.scale, dtype=torch.float64))
        self.register_buffer("steps", torch.tensor(0))

    @torch.no_grad()
    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        means = class_means(support, self.num_classes)
        self._begin(means, self.config.scale)
        if validation is not None and self.config.search_scale:
            self._choose([self.config.scale, *SCALES], lambda scale: self._begin(means, scale), validation)
        self._descend(support, validation)

    def _begin(self, means: Tensor, scale: float) -> None:
        self.visual.copy_(scale * self.logit_scale * means)
        self.blend.fill_(self.logit_scale)
        self.scale.fill_(scale)

    def _descend(self, support: Samples, validation: Samples | None) -> None:
        """Blocks in turn; leaves the step that validates best, the earliest of equals, or the last one."""
        features, labels = support.features, support.labels
        count = len(support)
        parts = [
            _Part(features[rows], labels[rows], self.text_features, count) for rows in tiles(count, self.num_classes)
        ]
        step_v = 2 / largest_eigenvalue(features)
        squares = torch.stack([part.similarity.square().sum(0) for part in parts]).sum(0) / count
        step_a = 2 / float(squares.max().clamp(min=1e-12))
        best = self._state(validation, 0)
        previous, ahead, momentum = float("inf"), self.visual.clone(), 1.0
        for step in range(1, self.config.steps + 1):
            moved = ahead - sum(step_v * part.error(part.logits(ahead, self.blend)).T @ part.features for part in parts)
            loss, blend_gradient = 0.0, torch.zeros_like(self.blend)
            for part in parts:
                logits = part.logits(moved, self.blend)
                loss += float(cross_entropy(logits, part.labels)) * len(part.labels) / count
                blend_gradient += (part.error(logits) * part.similarity).sum(0)
            if loss > previous:
                momentum = 1.0
            grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = moved + (momentum - 1) / grown * (moved - self.visual)
            previous, momentum = loss, grown
            self.visual.copy_(moved)
            self.blend.sub_(step_a * blend_gradient)
            if validation is None or step % SCORE_EVERY == 0 or step == self.config.steps:
                found = self._state(validation, step)
                best = found if validation is None or found[0] > best[0] else best
        self.visual.copy_(best[1])
        self.blend.copy_(best[2])
        self.steps.fill_(best[3])

    def _state(self, validation: Samples | None, step: int) -> tuple[tuple[float, ...], Tensor, Tensor, int]:
        score = () if validation is None else self._score(validation)
        return score, self.visual.detach().clone(), self.blend.detach().clone(), step

    def _logits(self, features: Tensor) -> Tensor:
        return features @ (self.visual + self.blend[:, None] * self.text_features).T

    def _configured(self, values: Mapping[str, float]) -> LPPlusPlusConfig:
        whole = {"steps": max(round(values["steps"]), 1)} if values else {}
        return super()._configured({**values, **whole})

    def hyperparameters(self) -> dict[str, float]:
        return {"scale": float(self.scale), "steps": float(self.steps)}


def largest_eigenvalue(features: Tensor) -> float:
    """Of ``F^T F / n``, from the smaller of the two Gram matrices."""
    n, width = features.shape
    gram = features @ features.T if n < width else features.T @ features
    return float(torch.linalg.eigvalsh(gram)[-1]) / n
