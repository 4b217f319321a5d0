"""Cache retrieval (arXiv 2111.03930) for many betas in one pass over the products; accuracy over betas and alphas."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.kinds import of_kinds
from vlmadapt.ops.cache_retrieval.checks import PreparedCache, check_label_range, checked_vector, grid_inputs
from vlmadapt.ops.cache_retrieval.reference import multi_beta_reference
from vlmadapt.ops.checks import accumulation_dtype, check_device, check_indices, check_real, float32_products
from vlmadapt.ops.switch import reference_in_use


@of_kinds
def cache_retrieval_multi_beta(
    queries: Tensor,
    keys: Tensor,
    labels: Tensor | PreparedCache,
    betas: Tensor,
    *,
    num_classes: int | None = None,
) -> Tensor:
    """Scores ``[G, B, C]`` for every beta of ``betas [G]``; each product is computed once. No gradient.

    queries, keys, labels, num_classes: as in :func:`cache_retrieval`, whose errors it raises.
    """
    queries, keys, cache = grid_inputs(queries, keys, labels, num_classes)
    betas = checked_vector("betas", betas, queries)
    if reference_in_use():
        return multi_beta_reference(queries, keys, cache, betas)
    return torch.ops.vlmadapt.cache_retrieval_multi_beta(
        queries, keys, cache.order, cache.offsets, betas, float32_products(queries)
    )


@of_kinds
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
    """Accuracy of ``argmax(base_logits + alpha * S(beta))`` for a whole grid, in one pass over the products.

    Args:
        queries, keys, labels, num_classes: as in :func:`cache_retrieval`.
        betas: ``[G]``.
        alphas: ``[A]``.
        base_logits: ``[B, C]``, what the scores are added to.
        targets: integer ``[B]``, the right classes.

    Returns:
        float64 ``[G, A]`` in [0, 1]; among equal logits the lowest class wins.

    Raises:
        InputError: shapes, dtypes or devices disagree, or a label is out of range.

    Replaces the released Tip-Adapter's search (arXiv 2111.03930), which repeats the products for every pair.
    """
    queries, keys, cache = grid_inputs(queries, keys, labels, num_classes)
    betas, alphas = checked_vector("betas", betas, queries), checked_vector("alphas", alphas, queries)
    check_device("targets", targets, "queries", queries)
    check_device("base_logits", base_logits, "queries", queries)
    check_real("base_logits", base_logits)
    if base_logits.shape != (len(queries), cache.num_classes):
        raise InputError(
            f"base_logits is {shape_of(base_logits)} but must be [{len(queries)}, {cache.num_classes}]: "
            "one row a query, one column a class."
        )
    targets = check_indices("targets", targets, len(queries))
    check_label_range(targets, cache.num_classes)
    dtype = accumulation_dtype(queries.dtype)
    if reference_in_use():
        scores = multi_beta_reference(queries, keys, cache, betas)
        logits = base_logits.to(dtype) + alphas.reshape(-1, 1, 1) * scores.unsqueeze(1)
        best, predicted = logits.max(-1)
        return ((predicted == targets) & ~best.isnan()).double().sum(-1) / max(len(queries), 1)
    correct = torch.ops.vlmadapt.cache_retrieval_grid(
        queries,
        keys,
        cache.order,
        cache.offsets,
        betas,
        alphas,
        base_logits.to(dtype).contiguous(),
        targets,
        float32_products(queries),
    )
    return correct.double() / max(len(queries), 1)
