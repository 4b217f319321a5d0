"""CLIP-Adapter: a bottleneck on the image feature, blended with the feature itself.

    A(f)   = relu(W_up relu(W_down f))               W_down [D / r, D], W_up [D, D / r], no bias     arXiv 2110.04544
    f'     = ratio * A(f) + (1 - ratio) * f          ratio 0.2 in the released code                  eq. 1 and 3
    logits = tau * normalize(f') @ W.T

Only the image branch is adapted, as in the paper's experiments. After training, ``ratio`` is searched again on
validation (ours); the paper fixes it per data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.trained import TrainedAdapter
from vlmadapt.config import AdapterConfig
from vlmadapt.training import Samples, TrainConfig, check_range
from vlmadapt.training.layers import empty_linear, set_uniform


@dataclass(frozen=True, kw_only=True)
class CLIPAdapterConfig(TrainConfig, AdapterConfig):
    epochs: int = field(default=50, metadata={"help": "passes over the training samples"})
    ratio: float = field(default=0.2, metadata={"help": "share of the adapted feature, in [0, 1]"})
    reduction: int = field(default=4, metadata={"help": "width divided by the bottleneck's width"})
    search_ratio: bool = field(default=True, metadata={"help": "search ratio on validation after training"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "ratio", low=0.0, high=1.0)
        check_range(self, "reduction", low=1)


class CLIPAdapter(TrainedAdapter):
    """A class without samples keeps its text feature and is only ever a negative in training."""

    name = "clip-adapter"
    config_class = CLIPAdapterConfig
    transfers = True
    ratio: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        bottleneck = max(self.width // self.config.reduction, 1)
        self.down = empty_linear(self.width, bottleneck, self.text_features.dtype, bias=False)
        self.up = empty_linear(bottleneck, self.width, self.text_features.dtype, bias=False)
        self.register_buffer("ratio", torch.tensor(self.config.ratio, dtype=torch.float64))

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        set_uniform(self.down, generator)
        set_uniform(self.up, generator)
        self.ratio.fill_(self.config.ratio)
        self._train(support, validation, options)
        if validation is not None and self.config.search_ratio:
            candidates = [self.config.ratio, *(step / 10 for step in range(11))]
            self._choose(candidates, self.ratio.fill_, validation)

    def _logits(self, features: Tensor) -> Tensor:
        ratio = self.ratio.to(features.dtype)
        adapted = torch.relu(self.up(torch.relu(self.down(features)))).to(features.dtype)
        blended = ratio * adapted + (1 - ratio) * features
        # ratio 1 and a dead bottleneck would leave nothing to normalise.
        return self._zero_shot_logits(torch.nn.functional.normalize(blended, dim=-1, eps=1e-12))

    def _configured(self, values: Mapping[str, float]) -> CLIPAdapterConfig:
        return self.config  # trained at the configured ratio, which is searched afterwards

    def _use(self, values: Mapping[str, float]) -> None:
        self.ratio.fill_(values["ratio"])

    def hyperparameters(self) -> dict[str, float]:
        return {"ratio": float(self.ratio)}
