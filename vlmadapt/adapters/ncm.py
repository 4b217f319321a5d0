"""NCM: the nearest class mean, plain or centred as in SimpleShot (arXiv 1911.04623), with or without text.

    z      = f                         or, centred, unit(f - m), m the mean of the class means
    V_c    = tau (z . mu_c - |mu_c|^2 / 2)        mu_c the mean of the class's z; the nearest has the largest V
    logits = tau * f @ W.T + alpha * V            or alpha * V alone

SimpleShot centres with the mean of its base classes; a few-shot classifier has only its own samples (ours), and so is
the sum with the zero-shot logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.blend import BlendAdapter, BlendConfig
from vlmadapt.adapters.means import class_means, padded
from vlmadapt.errors import InputError
from vlmadapt.training import Samples


@dataclass(frozen=True, kw_only=True)
class NCMConfig(BlendConfig):
    alpha: float = field(default=0.3, metadata={"help": "weight of the samples' scores without validation samples"})
    centre: bool = field(default=True, metadata={"help": "compare directions from the mean of the class means"})
    text: bool = field(default=True, metadata={"help": "add the zero-shot logits; without, the samples alone decide"})


class NCM(BlendAdapter):
    """``means [C, D]`` of the moved samples, and the ``centre [D]`` they are moved by.

    Uncentred, it keeps ``counts [C]`` and takes samples without a fit; a centre moves with every sample.
    """

    name = "ncm"
    config_class = NCMConfig
    grows = True
    needs_text = False
    centre: Tensor
    means: Tensor
    counts: Tensor | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("centre", self.text_features.new_zeros(self.width))
        self.register_buffer("means", torch.zeros_like(self.text_features))
        self.register_buffer("counts", None)

    def _learn(self, support: Samples) -> None:
        if self.config.centre:
            self.centre.copy_(class_means(support, self.num_classes)[self.present].mean(0))
        moved = Samples(self._moved(support.features), support.labels, support.position)
        self.means.copy_(class_means(moved, self.num_classes))
        self.counts = None if self.config.centre else torch.bincount(support.labels, minlength=self.num_classes)

    def _extend(self, before: NCM, added: Samples) -> None:
        if before.counts is None:
            raise InputError(
                "this ncm adapter is centred, and its centre would move: fit it with centre=no to add a class or "
                "samples."
            )
        counts = torch.bincount(added.labels, minlength=self.num_classes)
        self.counts = padded(before.counts, self.num_classes) + counts
        share = (counts.double() / self.counts.clamp(min=1)).to(self.means)[:, None]
        old = padded(before.means, self.num_classes)
        self.means.copy_(old + share * (class_means(added, self.num_classes) - old))
        self.present.copy_(self.counts > 0)
        self.alpha.copy_(before.alpha)

    def _moved(self, features: Tensor) -> Tensor:
        if not self.config.centre:
            return features
        return torch.nn.functional.normalize(features - self.centre, dim=-1, eps=1e-12)

    def _base(self, features: Tensor) -> Tensor:
        zero_shot = self._zero_shot_logits(features)
        return zero_shot if self.config.text else torch.zeros_like(zero_shot)

    def _visual(self, features: Tensor) -> Tensor:
        scores = self._moved(features) @ self.means.T - self.means.square().sum(-1) / 2
        return self.logit_scale * scores
