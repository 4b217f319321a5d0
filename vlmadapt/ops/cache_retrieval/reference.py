"""Cache retrieval (arXiv 2111.03930 and 2404.12588) in plain PyTorch: ``[B, n]`` in memory, the truth of the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.ops.cache_retrieval.checks import PreparedCache, given_beta, prepared

# Similarities of unit rows that deviate by less do not vary over the cache (a single entry, or equal ones): what is
# left of them is rounding, and is not divided by.
SMALLEST_DEVIATION = 1e-6


def cache_retrieval_reference(
    queries: Tensor,
    keys: Tensor,
    labels: Tensor | PreparedCache | None = None,
    beta: Tensor | float | None = None,
    *,
    values: Tensor | None = None,
    num_classes: int | None = None,
    text_queries: Tensor | None = None,
    text_keys: Tensor | None = None,
    text_beta: Tensor | float | None = None,
    text_keys_per_class: bool = False,
    ratio: Tensor | float | None = None,
    standardize: bool = False,
    own_entry: Tensor | None = None,
    mask_own_scores: bool = False,
    return_disagreement: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The formula in plain PyTorch; arguments and result of :func:`cache_retrieval`, ``[B, n]`` in memory."""
    cache = prepared(labels, num_classes, keys) if values is None else None
    entries = torch.arange(len(keys), device=keys.device)
    # shape, not len: an exported program is then one of any number of queries
    keep = torch.ones(queries.shape[0], len(keys), dtype=torch.bool, device=keys.device)
    if own_entry is not None:
        keep = entries != own_entry.unsqueeze(-1)
    image = _reference_affinity(queries, keys, given_beta(beta), standardize)
    affinity, disagreement = image, image.new_zeros(queries.shape[0])
    if text_queries is not None:
        assert cache is not None and text_keys is not None and text_beta is not None and ratio is not None
        entry_keys = text_keys[cache.labels] if text_keys_per_class else text_keys
        text = _reference_affinity(text_queries, entry_keys, text_beta, standardize)
        mix = torch.as_tensor(ratio, dtype=image.dtype, device=image.device).reshape(-1, 1)
        affinity = mix * image + (1 - mix) * text
        disagreement = ((image - text).abs() * keep).detach().sum(-1) / keep.sum(-1).clamp(min=1)
    if mask_own_scores:
        affinity = affinity * keep
    if cache is None:
        assert values is not None
        return affinity @ values
    scores = affinity.new_zeros(queries.shape[0], cache.num_classes).index_add(1, cache.labels, affinity)
    return (scores, disagreement) if return_disagreement else scores


def _reference_affinity(queries: Tensor, keys: Tensor, beta: Tensor | float, standardize: bool) -> Tensor:
    similarity = queries @ keys.T
    if standardize:
        similarity = similarity - similarity.mean(-1, keepdim=True)
        variance = similarity.square().mean(-1)
        varies = variance > largest_noise(queries, keys, keys.new_full((len(keys),), 1 / max(len(keys), 1)))
        similarity = similarity / torch.where(varies, variance, 1).sqrt().unsqueeze(-1)
    return torch.exp(
        -torch.as_tensor(beta, dtype=similarity.dtype, device=similarity.device).reshape(-1, 1) * (1 - similarity)
    )


@torch.no_grad()
def largest_noise(queries: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    """``[B]``: variances of similarities up to this count as none; ``weights`` ``[n]`` are the keys' shares, sum 1."""
    return SMALLEST_DEVIATION**2 * queries.square().sum(-1) * (weights @ keys.square().sum(-1))


@torch.no_grad()
def multi_beta_reference(queries: Tensor, keys: Tensor, cache: PreparedCache, betas: Tensor) -> Tensor:
    """Scores ``[G, B, C]`` of ``betas [G]``, as :func:`vlmadapt.ops.cache_retrieval_multi_beta` gives them."""
    with torch.autocast(queries.device.type, enabled=False):
        similarity = queries.to(betas.dtype) @ keys.to(betas.dtype).T
    affinity = torch.exp(-betas.reshape(-1, 1, 1) * (1 - similarity))
    scores = affinity.new_zeros(len(betas), len(queries), cache.num_classes)
    return scores.index_add(2, cache.labels, affinity)
