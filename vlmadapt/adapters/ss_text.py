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
from vlmadapt.adapters.means import class_sums, padded
from vlmadapt.config import AdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.training import Samples


@dataclass(frozen=True, kw_only=True)
class SSTextConfig(AdapterConfig):
    """Nothing to configure."""


class SSText(Adapter):
    """A class without samples keeps its text feature. Of the samples it keeps ``sums [C, D]`` and ``counts [C]``."""

    name = "ss-text"
    config_class = SSTextConfig
    grows = True
    classifier: Tensor
    sums: Tensor | None
    counts: Tensor | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("classifier", self.text_features.clone())
        self.register_buffer("sums", None)
        self.register_buffer("counts", None)

    @torch.no_grad()
    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        self._conclude(*class_sums(support, self.num_classes))

    def _conclude(self, sums: Tensor, counts: Tensor) -> None:
        self.sums, self.counts = sums, counts
        moved = self.text_features + self.logit_scale / counts.sum() * counts[:, None] * sums
        self.classifier.copy_(torch.nn.functional.normalize(moved, dim=-1, eps=1e-12))

    def _extend(self, before: SSText, added: Samples) -> None:
        if before.sums is None or before.counts is None:
            raise InputError(
                "this ss-text adapter was saved by a version that kept no sums of its samples: fit it again."
            )
        sums, counts = class_sums(added, self.num_classes)
        self._conclude(padded(before.sums, self.num_classes) + sums, padded(before.counts, self.num_classes) + counts)

    def _logits(self, features: Tensor) -> Tensor:
        return self.logit_scale * features @ self.classifier.T
