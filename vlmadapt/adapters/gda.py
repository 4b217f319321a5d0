"""GDA: Gaussian discriminant analysis with one covariance, beside the zero-shot classifier; arXiv 2402.04087.

    P      = D ((n - 1) Cov + tr(Cov) I)^-1        Cov [D, D] of the samples about their class means mu [C, D]
    V_c    = f P mu_c - mu_c P mu_c / 2
    logits = tau * f @ W.T + alpha * V

Nothing is trained. One sample a class leaves no covariance: P is then D / tr(T) times the identity, T the covariance
about the mean of all samples, and V compares with class means (ours).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.blend import BlendAdapter, BlendConfig
from vlmadapt.adapters.means import class_means, padded
from vlmadapt.adapters.views import ViewsConfig
from vlmadapt.errors import InputError
from vlmadapt.training import Samples

SMALLEST_TRACE = 1e-12  # of features of length 1: below it all samples are one


@dataclass(frozen=True, kw_only=True)
class GDAConfig(ViewsConfig, BlendConfig):
    extendable: bool = field(default=True, metadata={"help": "keep what add_class and add_samples need, D^2 numbers"})


class GDA(BlendAdapter):
    """``weight [C, D]``, ``bias [C]``: V is linear in f.

    Of the samples it keeps ``means [C, D]``, ``counts [C]`` and ``scatter [D, D]``, the sum of (f - mu)(f - mu)^T.
    """

    name = "gda"
    config_class = GDAConfig
    needs_text = False
    grows = True
    weight: Tensor
    bias: Tensor
    means: Tensor
    counts: Tensor
    scatter: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("weight", torch.zeros_like(self.text_features))
        self.register_buffer("bias", self.text_features.new_zeros(self.num_classes))
        for name in ("means", "counts", "scatter"):
            self.register_buffer(name, None)

    def _learn(self, support: Samples) -> None:
        wide = Samples(support.features.double(), support.labels, support.position)
        means = class_means(wide, self.num_classes)
        counts = torch.bincount(support.labels, minlength=self.num_classes)
        self._conclude(means, counts, scatter_about(wide.features, means[wide.labels]))

    def _conclude(self, means: Tensor, counts: Tensor, scatter: Tensor) -> None:
        weight = means @ shared_precision(means, counts, scatter)
        self.weight.copy_(weight)
        self.bias.copy_(-(weight * means).sum(-1) / 2)
        if self.config.extendable:
            self.means, self.counts, self.scatter = means, counts, scatter

    def _extend(self, before: GDA, added: Samples) -> None:
        if before.scatter is None:
            raise InputError(
                "this gda adapter was fitted with extendable=no: fit it again without that to add a class or samples."
            )
        more = Samples(added.features.double(), added.labels, added.position)
        means, counts = class_means(more, self.num_classes), torch.bincount(more.labels, minlength=self.num_classes)
        scatter = before.scatter + scatter_about(more.features, means[more.labels])
        old, of_old = padded(before.means, self.num_classes), padded(before.counts, self.num_classes)
        both = of_old + counts
        share = counts.double() / both.clamp(min=1)  # of the added ones; whole numbers would be divided in float32
        # Of two sets of one class: the scatter of each about its own mean, and that of the two means.
        apart = (of_old * share).sqrt()[:, None] * (old - means)
        joined = old + share[:, None] * (means - old)
        self._conclude(torch.where((of_old == 0)[:, None], means, joined), both, scatter + apart.T @ apart)
        self.present.copy_(both > 0)
        self.alpha.copy_(before.alpha)

    def _visual(self, features: Tensor) -> Tensor:
        return features @ self.weight.T + self.bias


def scatter_about(features: Tensor, means: Tensor) -> Tensor:
    """``[D, D]``: (n - 1) Cov of ``features [n, D]`` about ``means``, ``[D]`` or ``[n, D]``."""
    centred = features - means
    return centred.T @ centred


def shared_precision(means: Tensor, counts: Tensor, scatter: Tensor) -> Tensor:
    """P ``[D, D]`` of samples with class ``means [C, D]``, of ``counts [C]``, and ``scatter [D, D]`` about them."""
    width, number = means.shape[1], int(counts.sum())
    ridge = float(torch.trace(scatter)) / max(number - 1, 1)
    if ridge < SMALLEST_TRACE:
        of_all = (counts[:, None] * means).sum(0) / number
        about_all = float((counts * (means - of_all).square().sum(-1)).sum())
        ridge = max(about_all / max(number - 1, 1), SMALLEST_TRACE)
    regular = scatter + ridge * torch.eye(width, dtype=means.dtype, device=means.device)
    return width * torch.cholesky_inverse(torch.linalg.cholesky(regular))
