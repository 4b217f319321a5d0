"""GDA: Gaussian discriminant analysis with one covariance, beside the zero-shot classifier; arXiv 2402.04087.

    P      = D ((n - 1) Cov + tr(Cov) I)^-1        Cov [D, D] of the samples about their class means mu [C, D]
    V_c    = f P mu_c - mu_c P mu_c / 2
    logits = tau * f @ W.T + alpha * V

Nothing is trained. One sample a class leaves no covariance: P is then D / tr(T) times the identity, T the covariance
about the mean of all samples, and V compares with class means (ours).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.blend import BlendAdapter, BlendConfig
from vlmadapt.adapters.means import class_means
from vlmadapt.training import Samples

SMALLEST_TRACE = 1e-12  # of features of length 1: below it all samples are one


class GDA(BlendAdapter):
    """``weight [C, D]``, ``bias [C]``: V is linear in f."""

    name = "gda"
    config_class = BlendConfig
    needs_text = False
    weight: Tensor
    bias: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("weight", torch.zeros_like(self.text_features))
        self.register_buffer("bias", self.text_features.new_zeros(self.num_classes))

    def _learn(self, support: Samples) -> None:
        wide = Samples(support.features.double(), support.labels, support.position)
        means = class_means(wide, self.num_classes)
        precision = shared_precision(wide.features, means[wide.labels])
        weight = means @ precision
        self.weight.copy_(weight)
        self.bias.copy_(-(weight * means).sum(-1) / 2)

    def _visual(self, features: Tensor) -> Tensor:
        return features @ self.weight.T + self.bias


def shared_precision(features: Tensor, means: Tensor) -> Tensor:
    """P ``[D, D]`` of ``features [n, D]`` about ``means [n, D]``, that of each one's class."""
    centred = features - means
    width = features.shape[1]
    scatter = centred.T @ centred  # (n - 1) Cov
    ridge = float(torch.trace(scatter)) / max(len(features) - 1, 1)
    if ridge < SMALLEST_TRACE:
        about_all = features - features.mean(0)
        ridge = max(float(about_all.square().sum()) / max(len(features) - 1, 1), SMALLEST_TRACE)
    regular = scatter + ridge * torch.eye(width, dtype=features.dtype, device=features.device)
    return width * torch.cholesky_inverse(torch.linalg.cholesky(regular))
