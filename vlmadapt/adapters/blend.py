"""What the closed forms share that add a score of the samples to the zero-shot logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.means import have_samples, neither_for_nor_against
from vlmadapt.config import AdapterConfig, check_grid
from vlmadapt.training import Samples, cell_likelihoods, check_range, choose_in_grid, grid_accuracy, log_grid


@dataclass(frozen=True, kw_only=True)
class BlendConfig(AdapterConfig):
    alpha: float = field(default=0.1, metadata={"help": "weight of the samples' scores without validation samples"})
    search_alpha: tuple[float, float, int] = field(
        default=(1e-3, 1e2, 31), metadata={"help": "range searched on validation: low, high, steps in equal ratios"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "alpha", low=0.0)
        check_grid(self, "search_alpha")


class BlendAdapter(Adapter):
    """``logits = base(f) + alpha * visual(f)``; ``base`` are the zero-shot logits. ``alpha`` is searched on validation.

    A class without samples has the mean of the others' visual scores. A subclass fills in ``_learn`` and ``_visual``.
    """

    numbers = ("alpha",)
    alpha: Tensor
    present: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("alpha", torch.tensor(self.config.alpha, dtype=torch.float64))
        everyone = torch.ones(self.num_classes, dtype=torch.bool, device=self.text_features.device)
        self.register_buffer("present", everyone)

    def _learn(self, support: Samples) -> None:
        """Work out the samples' side, without ``alpha``."""
        raise NotImplementedError

    def _visual(self, features: Tensor) -> Tensor:
        """Scores ``[B, C]`` by the samples."""
        raise NotImplementedError

    def _base(self, features: Tensor) -> Tensor:
        return self._zero_shot_logits(features)

    @torch.no_grad()
    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        self.present.copy_(have_samples(support, self.num_classes))
        self._learn(support)
        self.alpha.fill_(self.config.alpha)
        if validation is not None:
            self._search_widely(lambda: self._search(validation))

    def _search(self, validation: Samples) -> None:
        alphas = log_grid(*self.searched("search_alpha"))

        def at_rows(rows: slice) -> Callable[[int], Callable[[Tensor], Tensor]]:
            features = validation.features[rows]
            base, visual = self._base(features), self._scores(features)
            return lambda _: lambda a: base + alphas[a].to(base)[:, None, None] * visual

        def tie_break(g: Tensor, a: Tensor) -> Tensor:
            return cell_likelihoods(at_rows, validation.labels, self.num_classes, g, a)

        accuracy = grid_accuracy(at_rows, validation.labels, self.num_classes, (1, len(alphas)))
        self.alpha.fill_(float(alphas[choose_in_grid(accuracy, len(validation), tie_break)[1]]))

    def _scores(self, features: Tensor) -> Tensor:
        return neither_for_nor_against(self._visual(features), self.present)

    def _logits(self, features: Tensor) -> Tensor:
        return self._base(features) + float(self.alpha) * self._scores(features)

    def hyperparameters(self) -> dict[str, float]:
        return {"alpha": float(self.alpha)}
