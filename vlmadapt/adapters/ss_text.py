"""SS-Text: class weights that are the text plus the summed samples, in closed form, for medical images first.

    w_c    = t_c + tau / (n lam_c) * (sum of the class's f)        lam_c = 1 / (samples of the class)
    logits = tau * f @ w.T / |w_c|

The solver of arXiv 2506.17500, for few and unbalanced samples; no validation set is needed and none is used. Weights
are scaled to length 1 (ours): the sum grows with the shots, and so would the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.means import class_means
from vlmadapt.config import AdapterConfig
from vlmadapt.training import Samples


@dataclass(frozen=True, kw_only=True)
class SSTextConfig(AdapterConfig):
    """Nothing to configure."""


class SSText(Adapter):
    """A class without samples keeps its text feature."""

    name = "ss-text"
    config_class = SSTextConfig
    classifier: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("classifier", self.text_features.clone())

    @torch.no_grad()
    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        counts = torch.bincount(support.labels, minlength=self.num_classes).to(support.features)
        sums = class_means(support, self.num_classes) * counts[:, None]
        moved = self.text_features + self.logit_scale / len(support) * counts[:, None] * sums
        self.classifier.copy_(torch.nn.functional.normalize(moved, dim=-1, eps=1e-12))

    def _logits(self, features: Tensor) -> Tensor:
        return self.logit_scale * features @ self.classifier.T
