"""What the cache methods share: the cached entries, their class order, and votes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.reweight import agreement, weighted
from vlmadapt.adapters.views import hide, shares
from vlmadapt.adapters.votes import Vote, check_top, top_votes
from vlmadapt.modes import usual
from vlmadapt.ops import PreparedCache, cache_retrieval, cache_retrieval_multi_beta
from vlmadapt.training import Samples, tiles


class CacheAdapter(Adapter):
    """Holds labels ``[n]`` and support indices ``[n]`` of the cached entries; a class without entries scores zero.

    With ``reweight`` in its configuration, entries have ``entry_weights [n]``, by :func:`agreement`; with views as
    samples they have those of :func:`shares` (or both), and the support indices of one picture's views are one.
    A subclass keeps ``keys [n, D]`` (buffer or parameter) and says in ``_affinities`` how entries are weighed.
    """

    explains = True
    labels: Tensor
    support_index: Tensor
    keys: Tensor
    entry_weights: Tensor | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("labels", None)
        self.register_buffer("support_index", None)
        self.register_buffer("entry_weights", None)
        self._prepared: PreparedCache | None = None

    def _remember(self, support: Samples) -> None:
        self.labels, self.support_index = support.labels, support.position
        self.entry_weights = self._weights(support)
        self._prepared = None

    def _weights(self, support: Samples) -> Tensor | None:
        """``[n]``; None where all entries weigh the same."""
        weights = agreement(support) if self.config.reweight else None
        if not self.config.each_view:
            return weights
        return shares(support) if weights is None else shares(support) * weights

    def _cache(self) -> PreparedCache:
        """The class order of the cache, worked out once and again after a move to another device."""
        if self._prepared is None or self._prepared.labels is not self.labels:
            self._prepared = PreparedCache(self.labels, self.num_classes)
        return self._prepared

    def _each_entry(self) -> PreparedCache:
        """A cache in which every entry is a class of its own: class scores are then the affinities themselves."""
        entries = len(self.labels)
        return PreparedCache(torch.arange(entries, device=self.labels.device), entries)

    def _each_class(self) -> PreparedCache:
        """A cache of one entry a class."""
        return PreparedCache(torch.arange(self.num_classes, device=self.labels.device), self.num_classes)

    def _own_entries(self, indices: Tensor) -> Tensor:
        """Cache entries ``[b]`` that training samples ``indices [b]`` must not see, nor other views of their pictures;
        -1 where a class has no other picture."""
        labels = self.labels
        if self.config.each_view:
            pictures, of = self.support_index.unique(return_inverse=True)
            labels = labels.new_empty(len(pictures)).index_copy_(0, of, labels)
        alone = torch.bincount(labels, minlength=self.num_classes) < 2
        return torch.where(alone[self.labels[indices]], -1, indices)

    def _hidden(
        self, queries: Tensor, keys: Tensor, hidden: Tensor | None, beta: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys whose affinity is 0 where they are views of one picture, that of entry ``hidden [B]``."""
        if hidden is None or not self.config.each_view:
            return queries, keys  # the operator hides an entry
        own = torch.where(hidden < 0, -1, self.support_index[hidden])
        return hide(queries, keys, own, self.support_index, beta)

    def _scores(self, features: Tensor, keys: Tensor, beta: float, hidden: Tensor | None = None) -> Tensor:
        """``S [B, C]``; ``hidden [B]`` names an entry of the cache that each query does not see, or -1."""
        queries, keys = weighted(features, keys, self.entry_weights, beta)
        queries, keys = self._hidden(queries, keys, hidden, beta)
        return cache_retrieval(queries, keys, self._cache(), beta, own_entry=hidden, mask_own_scores=hidden is not None)

    def _scores_of(self, features: Tensor, keys: Tensor, betas: Tensor) -> Tensor:
        """``S [G, B, C]`` at each of ``betas [G]``."""
        if self.entry_weights is None:
            return cache_retrieval_multi_beta(features, keys, self._cache(), betas)
        return torch.stack([self._scores(features, keys, beta) for beta in betas.tolist()])

    def _entry_scores(self, features: Tensor, beta: float) -> Tensor:
        """Affinity of each query to each entry ``[B, n]``, where there is one stream."""
        queries, keys = weighted(features, self.keys, self.entry_weights, beta)
        return cache_retrieval(queries, keys, self._each_entry(), beta)

    def _affinities(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Affinity of each query to each entry ``[B, n]``, and the part of it that the text stream contributed."""
        raise NotImplementedError

    @torch.no_grad()
    @usual()
    def explain(self, features: Any, top: int = 5) -> list[list[Vote]]:
        """The ``top`` cached samples with the largest affinity to each query, whatever their class; a picture whose
        views are samples is one of them, with the sum of their affinities.

        Forms ``[B, n]`` affinities, which ``predict`` never does, and sorts each row: explain queries by the dozen.
        """
        self._require_fit()
        check_top(top)
        rows = self._features("features", features)
        votes: list[list[Vote]] = []
        pictures, of = self.support_index.unique(return_inverse=True)
        labels = self.labels.new_empty(len(pictures)).index_copy_(0, of, self.labels)
        for tile in tiles(len(rows), max(len(self.labels), self.num_classes)):
            affinity, text_part = (None if part is None else _sums(part, of) for part in self._affinities(rows[tile]))
            assert affinity is not None
            votes += top_votes(affinity, text_part, labels, pictures, self.class_names, top)
        return votes


def _sums(affinity: Tensor, of: Tensor) -> Tensor:
    """``[B, n]`` of each entry to ``[B, P]`` of each picture, entry ``k`` being one of picture ``of[k]``."""
    return affinity.new_zeros(len(affinity), int(of.max()) + 1).index_add(1, of, affinity)
