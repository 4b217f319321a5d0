"""TaskRes: a trained residual on the class text features.

    W'     = W + scale * R          R [C, D] trained from zero, scale 0.5                            arXiv 2211.10277
    logits = tau * f @ normalize(W').T

After training, ``scale`` is searched again on validation (ours); the paper fixes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.trained import TrainedAdapter
from vlmadapt.config import AdapterConfig
from vlmadapt.training import Samples, TrainConfig, check_range


@dataclass(frozen=True, kw_only=True)
class TaskResConfig(TrainConfig, AdapterConfig):
    epochs: int = field(default=100, metadata={"help": "passes over the training samples"})
    lr: float = field(default=2e-3, metadata={"help": "peak learning rate of AdamW"})
    scale: float = field(default=0.5, metadata={"help": "factor of the trained residual"})
    search_scale: bool = field(default=True, metadata={"help": "search scale on validation after training"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "scale", low=0.0, low_allowed=False)


class TaskRes(TrainedAdapter):
    """A class without samples is only ever a negative in training: its text feature moves away from the others."""

    name = "taskres"
    config_class = TaskResConfig
    scale: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.residual = nn.Parameter(torch.zeros_like(self.text_features))
        self.register_buffer("scale", torch.tensor(self.config.scale, dtype=torch.float64))

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        nn.init.zeros_(self.residual)
        self.scale.fill_(self.config.scale)
        self._train(support, validation, options)
        if validation is not None and self.config.search_scale:
            factors = (1.0, 0.0, 0.25, 0.5, 0.75, 1.5, 2.0)
            candidates = [self.config.scale * factor for factor in factors]
            self._choose(candidates, self.scale.fill_, validation)

    def _logits(self, features: Tensor) -> Tensor:
        moved = self.text_features + self.scale.to(features.dtype) * self.residual
        return self.logit_scale * features @ torch.nn.functional.normalize(moved, dim=-1, eps=1e-12).T

    def _configured(self, values: Mapping[str, float]) -> TaskResConfig:
        return self.config  # trained at the configured scale, which is searched afterwards

    def _use(self, values: Mapping[str, float]) -> None:
        self.scale.fill_(values["scale"])

    def hyperparameters(self) -> dict[str, float]:
        return {"scale": float(self.scale)}
