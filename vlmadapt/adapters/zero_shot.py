"""Zero-shot classification: the class text features are the classifier.

logits = tau * f @ W.T          f [B, D], W [C, D] normalised                                    arXiv 2103.00020
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.base import Adapter
from vlmadapt.config import AdapterConfig
from vlmadapt.training import Samples


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(AdapterConfig):
    """Nothing to configure."""


class ZeroShot(Adapter):
    """Uses no samples: ``fit`` checks its arguments and changes nothing, and may be left out."""

    name = "zero-shot"
    learns = False
    transfers = True
    config_class = ZeroShotConfig

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fitted_ = True

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        pass

    def _logits(self, features: Tensor) -> Tensor:
        return self._zero_shot_logits(features)
