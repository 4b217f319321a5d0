"""Tip-Adapter and Tip-Adapter-F: a cache of labelled image features beside the zero-shot classifier.

    A[b, k] = exp(-beta * (1 - f_b . F_k))           F [n, D] support features                       arXiv 2111.03930
    S[b, c] = sum of A[b, k] over entries k of class c
    logits  = tau * f @ W.T + alpha * S

Tip-Adapter trains nothing. Tip-Adapter-F trains F, which starts as the support features and is not re-normalised
(as the released code has it); the one-hot values stay frozen.

``beta`` and ``alpha`` are searched on validation only: the released code searches them on the test split. Our grid is
in equal ratios, and accuracies are averaged over neighbouring cells before the best is taken (``choose_in_grid``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.cache import CacheAdapter
from vlmadapt.adapters.reweight import CacheConfig
from vlmadapt.adapters.trained import TrainedAdapter
from vlmadapt.config import check_grid
from vlmadapt.ops import cache_retrieval_grid
from vlmadapt.training import (
    GridLogits,
    Samples,
    TrainConfig,
    cell_likelihoods,
    check_range,
    choose_in_grid,
    grid_accuracy,
    log_grid,
    smoothed_hits,
    tiles,
)


@dataclass(frozen=True, kw_only=True)
class TipAdapterConfig(CacheConfig):
    beta: float = field(default=5.5, metadata={"help": "sharpness of the affinity without validation samples"})
    alpha: float = field(default=1.0, metadata={"help": "weight of the cache scores without validation samples"})
    search_beta: tuple[float, float, int] = field(
        default=(0.5, 32.0, 25), metadata={"help": "range searched on validation: low, high, steps in equal ratios"}
    )
    search_alpha: tuple[float, float, int] = field(
        default=(0.05, 500.0, 41), metadata={"help": "range searched on validation: low, high, steps in equal ratios"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "beta", low=0.0, low_allowed=False)
        check_range(self, "alpha", low=0.0)
        check_grid(self, "search_beta")
        check_grid(self, "search_alpha")


@dataclass(frozen=True, kw_only=True)
class TipAdapterFConfig(TrainConfig, TipAdapterConfig):
    adam_eps: float = field(default=1e-4, metadata={"help": "AdamW's epsilon, as in the released code"})
    leave_one_out: bool = field(
        default=True, metadata={"help": "hide a training sample's own cache entry from its scores while training"}
    )

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        TipAdapterConfig.__post_init__(self)


class TipAdapter(CacheAdapter):
    """Training-free. A class without samples has no cache score and keeps its zero-shot logit."""

    name = "tip-adapter"
    config_class = TipAdapterConfig
    grows = True
    needs_text = False
    numbers = ("beta", "alpha")
    beta: Tensor
    alpha: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("beta", torch.tensor(self.config.beta, dtype=torch.float64))
        self.register_buffer("alpha", torch.tensor(self.config.alpha, dtype=torch.float64))
        self._make_keys()

    def _make_keys(self) -> None:
        self.register_buffer("keys", None)

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        self._remember(support)
        self.keys = support.features.clone()
        self._search(validation)

    def _extend(self, before: TipAdapter, added: Samples) -> None:
        first = int(before.support_index.max()) + 1
        self.keys = torch.cat([before.keys, added.features])
        labels = torch.cat([before.labels, added.labels])
        self._remember(Samples(self.keys, labels, torch.cat([before.support_index, first + added.position])))
        self.beta.copy_(before.beta)
        self.alpha.copy_(before.alpha)

    @torch.no_grad()
    def _search(self, validation: Samples | None) -> None:
        """Set ``beta`` and ``alpha``: the defaults, or the best of the grid on validation."""
        self.beta.fill_(self.config.beta)
        self.alpha.fill_(self.config.alpha)
        if validation is not None:
            self._search_widely(lambda: self._search_grid(validation))

    def _search_grid(self, validation: Samples) -> None:
        betas, alphas = self._grid()
        at_rows = self._grid_logits(validation)

        def tie_break(g: Tensor, a: Tensor) -> Tensor:
            return cell_likelihoods(at_rows, validation.labels, self.num_classes, g, a, held=len(betas))

        g, a = choose_in_grid(self._grid_accuracy(validation), len(validation), tie_break)
        self.beta.fill_(float(betas[g]))
        self.alpha.fill_(float(alphas[a]))

    def _grid_logits(self, validation: Samples) -> GridLogits:
        """Logits of some rows at a beta, by alpha."""
        betas, alphas = self._grid()

        def at_rows(rows: slice) -> Any:
            features = validation.features[rows]
            base = self._zero_shot_logits(features)
            scores = self._scores_of(features, self.keys.detach(), betas)
            return lambda g: lambda a: base + alphas[a].to(base)[:, None, None] * scores[g]

        return at_rows

    def _grid(self) -> tuple[Tensor, Tensor]:
        return log_grid(*self.searched("search_beta")), log_grid(*self.searched("search_alpha"))

    @torch.no_grad()
    def _grid_accuracy(self, validation: Samples) -> Tensor:
        """Validation accuracy ``[G, A]`` of every beta and alpha with the keys as they are."""
        betas, alphas = self._grid()
        if self.entry_weights is not None:
            return grid_accuracy(
                self._grid_logits(validation), validation.labels, self.num_classes, (len(betas), len(alphas))
            )
        hits = validation.features.new_zeros(len(betas), len(alphas), dtype=torch.float64)
        for rows in tiles(len(validation), self.num_classes):
            features, labels = validation.features[rows], validation.labels[rows]
            base = self._zero_shot_logits(features)
            shares = cache_retrieval_grid(features, self.keys.detach(), self._cache(), betas, alphas, base, labels)
            hits += shares * len(labels)
        return hits / len(validation)

    def _logits(self, features: Tensor) -> Tensor:
        scores = self._scores(features, self.keys, float(self.beta))
        return self._zero_shot_logits(features) + float(self.alpha) * scores

    def _affinities(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._entry_scores(features, float(self.beta)), None

    def hyperparameters(self) -> dict[str, float]:
        return {"beta": float(self.beta), "alpha": float(self.alpha)}


class TipAdapterF(TipAdapter, TrainedAdapter):
    """Tip-Adapter with trained keys.

    ``leave_one_out`` hides a sample's own entry, whose affinity is 1, while training, unless it is the only one of its
    class (ours; the released training, without it, hardly moves the keys once alpha is large).

    With validation samples the search runs twice: before training, for the ``beta`` and ``alpha`` to train with
    (ours; the released code fixes them per data set), and again for the trained keys. An epoch is scored by the best
    of the grid for its keys: at the settings that suited the first keys best, no later epoch could compete.
    """

    name = "tip-adapter-f"
    config_class = TipAdapterFConfig
    grows = False  # its keys were trained to tell the other classes

    def _make_keys(self) -> None:
        self.register_parameter("keys", None)

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        self._remember(support)
        self.keys = nn.Parameter(support.features.clone())
        self._search(validation)
        self._train(support, validation, options)
        if validation is not None:
            self._search(validation)

    def _loss(self, support: Samples, indices: Tensor) -> Tensor:
        features = support.features[indices]
        hidden = self._own_entries(indices) if self.config.leave_one_out else None
        scores = self._scores(features, self.keys, float(self.beta), hidden)
        logits = self._zero_shot_logits(features) + float(self.alpha) * scores
        return torch.nn.functional.cross_entropy(logits, support.labels[indices])

    @torch.no_grad()
    def _score(self, samples: Samples) -> tuple[float, ...]:
        return (float(smoothed_hits(self._grid_accuracy(samples), len(samples)).max()),)
