"""Cache retrieval: class scores from exponentiated similarities to a cache of labelled keys.

    A_img[b, k] = exp(-beta      * (1 - queries[b] . keys[k]))                 arXiv 2111.03930
    A_txt[b, k] = exp(-text_beta * (1 - text_queries[b] . text_keys[k]))       arXiv 2404.12588
    A           = ratio * A_img + (1 - ratio) * A_txt
    S[b, c]     = sum of A[b, k] over the entries k with labels[k] = c

:func:`cache_retrieval_reference` states this in plain PyTorch and is the truth of the tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.errors import InputError


class PreparedCache:
    """The class order of a cache, worked out once: pass it wherever ``labels`` is expected.

    Attributes:
        labels: int64 ``[n]``, the class of each entry.
        num_classes: ``C``.
        order: int64 ``[n]``, entry indices sorted by class (stable).
        offsets: int64 ``[C + 1]``; class ``c`` owns ``order[offsets[c]:offsets[c + 1]]``.
    """

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
            raise InputError(
                f"labels must lie in [0, {num_classes - 1}] but range from {int(labels.min())} to {int(labels.max())}."
            )
        self.labels = labels
        self.num_classes = num_classes
        self.order = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=num_classes)
        self.offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _column(value: Tensor | float, like: Tensor) -> Tensor:
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return tensor if tensor.dim() == 0 else tensor.unsqueeze(-1)


def _affinity(queries: Tensor, keys: Tensor, beta: Tensor | float, counts: Tensor | None, standardize: bool) -> Tensor:
    similarity = queries @ keys.T
    if standardize:
        weights = similarity.new_ones(len(keys)) if counts is None else counts.to(similarity.dtype)
        weights = weights / weights.sum()
        mean = (similarity * weights).sum(-1, keepdim=True)
        deviation = ((similarity - mean).square() * weights).sum(-1, keepdim=True).sqrt()
        similarity = (similarity - mean) / deviation
    return torch.exp(-_column(beta, similarity) * (1 - similarity))


def cache_retrieval_reference(
    queries: Tensor,
    keys: Tensor,
    labels: Tensor | PreparedCache,
    beta: Tensor | float,
    *,
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
    """The formula in plain PyTorch; same arguments and result as :func:`cache_retrieval`, ``[B, n]`` in memory."""
    cache = labels if isinstance(labels, PreparedCache) else PreparedCache(labels, _required(num_classes))
    labels, num_classes = cache.labels, cache.num_classes
    affinity = image = _affinity(queries, keys, beta, None, standardize)
    keep = torch.ones_like(image, dtype=torch.bool)
    if own_entry is not None:
        keep = torch.arange(len(labels), device=labels.device) != own_entry.unsqueeze(-1)
    disagreement = image.new_zeros(len(queries))
    if text_queries is not None:
        assert text_keys is not None and text_beta is not None and ratio is not None
        counts = torch.bincount(labels, minlength=num_classes) if text_keys_per_class else None
        text = _affinity(text_queries, text_keys, text_beta, counts, standardize)
        text = text[:, labels] if text_keys_per_class else text
        mixing = _column(ratio, image)
        affinity = mixing * image + (1 - mixing) * text
        gap = ((image - text).abs() * keep).detach()
        disagreement = gap.sum(-1) / keep.sum(-1).clamp(min=1)
    if mask_own_scores:
        affinity = affinity * keep
    scores = affinity.new_zeros(len(queries), num_classes).index_add(1, labels, affinity)
    return (scores, disagreement) if return_disagreement else scores


def _required(num_classes: int | None) -> int:
    if num_classes is None:
        raise InputError("num_classes must be given when labels is a tensor: pass the number of classes.")
    return num_classes


cache_retrieval = cache_retrieval_reference


def cache_retrieval_grid(
    queries: Tensor,
    keys: Tensor,
    labels: Tensor | PreparedCache,
    betas: Tensor,
    alphas: Tensor,
    base_logits: Tensor,
    targets: Tensor,
    *,
    num_classes: int | None = None,
) -> Tensor:
    """Accuracy ``[G, A]`` of ``argmax(base_logits + alpha * S(beta))`` for every pair of ``betas`` and ``alphas``."""
    rows = []
    for beta in betas.tolist():
        scores = cache_retrieval_reference(queries, keys, labels, beta, num_classes=num_classes)
        assert isinstance(scores, Tensor)
        row = [(torch.argmax(base_logits + a * scores, -1) == targets).double().mean() for a in alphas.tolist()]
        rows.append(torch.stack(row))
    return torch.stack(rows)
