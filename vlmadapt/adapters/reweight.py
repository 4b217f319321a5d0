"""Weights of cached samples against wrong labels: who looks like the others of its class counts more.

    w_k = K softmax over the K samples of a class of (mean cosine of sample k to the others / 0.1)

As SimNL weighs its support (arXiv 2403.12964); a class's weights sum to its number of samples. Views of one picture
(:mod:`vlmadapt.adapters.views`) are not among the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlmadapt.adapters.views import ViewsConfig
from vlmadapt.training import Samples

TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class CacheConfig(ViewsConfig):
    reweight: bool = field(
        default=False,
        metadata={"help": "weigh cached samples by how much they look like the others of their class", "later": True},
    )


def agreement(support: Samples) -> Tensor:
    """``[n]``, of normalised features; 1 for the samples of a class's only picture."""
    weights = torch.ones(len(support), dtype=torch.float64, device=support.features.device)
    for label in support.labels.unique().tolist():
        rows = torch.nonzero(support.labels == label).squeeze(-1)
        features = support.features[rows].double()
        pictures, of, counts = support.position[rows].unique(return_inverse=True, return_counts=True)
        if len(pictures) > 1:
            own = torch.zeros(len(pictures), features.shape[1]).to(features).index_add_(0, of, features)
            others = (features @ features.sum(0) - (features * own[of]).sum(-1)) / (len(rows) - counts[of])
            weights[rows] = len(rows) * (others / TEMPERATURE).softmax(-1)
    return weights


def weighted(queries: Tensor, keys: Tensor, weights: Tensor | None, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    """Queries ``[B, D']`` and keys ``[n, D']`` whose affinity at ``beta`` is ``weights [n]`` times that of the given.

    ``w exp(beta (s - 1)) = exp(beta (s + log(w) / beta - 1))``: one column more. Without weights, what was given.
    """
    if weights is None:
        return queries, keys
    shift = (weights.log() / beta).to(keys.dtype)
    return torch.cat([queries, torch.ones_like(queries[:, :1])], -1), torch.cat([keys, shift[:, None]], -1)
