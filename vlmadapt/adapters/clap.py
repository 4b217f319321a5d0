"""ZS-LP and CLAP: a linear probe that starts as zero-shot, and one that is held near it; arXiv 2312.12730.

    logits = tau * f @ normalize(w).T                   w [C, D] starts as the class text t
    loss   = mean cross-entropy                         zs-lp
           + mean over c of lam_c |w_c - t_c|^2         clap

lam_c is the mean zero-shot probability of class c over its own samples: what the text knows is kept, what it does
not know is learned. The mean over the classes is the released code's. The paper trains a fixed number of epochs without
validation; with validation samples the best epoch is kept, as for all trained methods here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.trained import TrainedAdapter
from vlmadapt.config import AdapterConfig
from vlmadapt.training import Samples, TrainConfig, tiles


@dataclass(frozen=True, kw_only=True)
class CLAPConfig(TrainConfig, AdapterConfig):
    epochs: int = field(default=100, metadata={"help": "passes over the training samples"})
    lr: float = field(default=2e-3, metadata={"help": "peak learning rate of AdamW"})
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled weight decay of AdamW"})


class ZSLP(TrainedAdapter):
    """A class without samples is only ever a negative in training."""

    name = "zs-lp"
    config_class = CLAPConfig

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.weight = nn.Parameter(self.text_features.clone())

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        with torch.no_grad():
            self.weight.copy_(self.text_features)
        self._train(support, validation, options)

    def _logits(self, features: Tensor) -> Tensor:
        return self.logit_scale * features @ nn.functional.normalize(self.weight, dim=-1, eps=1e-12).T


class CLAP(ZSLP):
    """ZS-LP with a penalty. A class without samples is held with the mean strength of the others (ours)."""

    name = "clap"
    strength: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("strength", self.text_features.new_zeros(self.num_classes))

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        self.strength.copy_(self._zero_shot_certainty(support))
        super()._fit(support, validation, options)

    @torch.no_grad()
    def _zero_shot_certainty(self, support: Samples) -> Tensor:
        """lam ``[C]``."""
        rows = torch.arange(len(support), device=support.labels.device)
        certain = support.features.new_zeros(len(support))
        for tile in tiles(len(support), self.num_classes):
            chances = self._zero_shot_logits(support.features[tile]).softmax(-1)
            certain[tile] = chances[rows[: len(chances)], support.labels[tile]]
        counts = torch.bincount(support.labels, minlength=self.num_classes)
        sums = certain.new_zeros(self.num_classes).index_add(0, support.labels, certain)
        means = sums / counts.clamp(min=1)
        return torch.where(counts > 0, means, means[counts > 0].mean())

    def _loss(self, support: Samples, indices: Tensor) -> Tensor:
        distance = (self.weight - self.text_features).square().sum(-1)
        return super()._loss(support, indices) + (self.strength * distance).mean()
