"""p-Laplacian attention: one step of p-Laplacian message passing over the graph of attention.

With attention probabilities ``A`` as edge weights between queries and keys, node features ``x_query`` and
``x_value`` (arXiv 2312.10613; message passing of arXiv 2111.07337):

    M[i, j] = A[i, j] * norm(sqrt(A[i, j]) * (x_query[i] - x_value[j])) ** (p - 2)
    out[i]  = (sum_j M[i, j] x_value[j] + (2 mu / p) r[i]) / (sum_j M[i, j] + 2 mu / p)

``r`` is ``x_query`` (the papers' form) or 0 (what the released code computes in cross-attention). With
``degree="paper"`` the values are divided by the roots of their degrees first, ``x_value[j] / sqrt(sum_i A[i, j])``:
the adapter paper's normalisation (equations 9 to 15), whose rows have degree one.
:func:`p_laplacian` takes the probabilities; :func:`p_laplacian_attention` takes queries and keys and never stores
them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmadapt.kinds import of_kinds
from vlmadapt.ops.attention import attention_probabilities, check_shape, checked, checked_mask, scale_of
from vlmadapt.ops.attention_column_sums import attention_column_sums
from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.p_laplacian import autograd  # noqa: F401  (registers gradients)
from vlmadapt.ops.p_laplacian.checks import check_options, power_and_pull
from vlmadapt.ops.p_laplacian.reference import (
    Degree,
    PLaplacianOutput,
    Residual,
    SelfLoops,
    divided_by_degree,
    p_laplacian_reference,
)
from vlmadapt.ops.switch import reference_in_use
from vlmadapt.ops.transforms import call


@of_kinds
def p_laplacian(
    attention: Tensor,
    x_query: Tensor,
    x_value: Tensor,
    p: Tensor | float,
    mu: Tensor | float,
    *,
    residual: Residual = "query",
    self_loops: SelfLoops = "drop",
    degree: Degree = "none",
    homogeneous: bool = False,
    eps: float = 1e-8,
) -> Tensor:
    """p-Laplacian message passing along given attention probabilities.

    Args:
        attention: ``[B, H, Lq, Lk]`` float32, float64, bfloat16 or float16, entries >= 0; a zero is no edge.
        x_query: ``[B, H, Lq, d]``, same dtype and device.
        x_value: ``[B, H, Lk, d]``.
        p: >= 1; a number, a 0-d tensor or one value a head ``[H]``. At 2 the weights are ``attention`` itself.
        mu: >= 0, pull towards ``r``; as ``p``.
        residual: ``"query"``: ``r = x_query`` (arXiv 2111.07337); ``"none"``: ``r = 0`` (the released code).
        self_loops: what becomes of pairs whose features coincide, where the power is singular for p < 2.
            ``"drop"``: they have no edge unless p is 2 (arXiv 2111.07337); with ``homogeneous`` the pair of a node
            with itself has none at any p. ``"keep"``: the released arithmetic, ``eps`` added to every coordinate
            of ``sqrt(A) (x_query - x_value)``; such edges then dominate.
        degree: ``"none"``, or ``"paper"``: ``x_value[j] / sqrt(c[j])`` in place of ``x_value[j]`` with the column sums
            ``c[j] = sum_i A[i, j]``, which is equations 9 to 15 of arXiv 2312.10613 where rows of ``attention`` sum to
            one. Values then grow as ``sqrt(Lk / Lq)``. A key with ``c[j]`` below 1e-24 (1e-200 in float64), a masked
            one for example, has the value 0. Computed in float32 (float64 for float64).
        homogeneous: queries and keys are the same nodes (self-attention), the queries being the last ``Lq`` of the
            ``Lk`` (all of them, or the new ones when decoding): query i is key ``i + Lk - Lq``.
        eps: of ``self_loops="keep"``, > 0.

    Returns:
        ``[B, H, Lq, d]`` in the inputs' dtype; sums are kept in float32 (float64 for float64). A row without edges
        gives ``r``. Under autocast everything is float32.

    Differentiable once in attention, x_query, x_value, p and mu, with finite gradients where attention is zero or
    features coincide: such pairs count as constant there. NaN in an input gives NaN.

    Raises:
        InputError: shapes, dtypes or devices disagree, or p, mu or eps is out of range.
    """
    tensors = {"attention": attention, "x_query": x_query, "x_value": x_value}
    attention, x_query, x_value = checked(tensors)
    check_shape("x_query", x_query, [*attention.shape[:3], x_query.shape[-1]])
    check_shape("x_value", x_value, [*attention.shape[:2], attention.shape[3], x_query.shape[-1]])
    check_options(residual, self_loops, degree, homogeneous, eps, attention.shape[2], attention.shape[3])
    power, pull = power_and_pull(p, mu, attention)
    if reference_in_use():
        with torch.autocast(attention.device.type, enabled=False):
            return p_laplacian_reference(
                attention.to(power.dtype),
                x_query.to(power.dtype),
                x_value.to(power.dtype),
                p,
                mu,
                residual=residual,
                self_loops=self_loops,
                degree=degree,
                homogeneous=homogeneous,
                eps=eps,
            ).to(attention.dtype)
    dtype, wide = attention.dtype, power.dtype
    if degree == "paper":
        attention, x_query, x_value = attention.to(wide), x_query.to(wide), x_value.to(wide)
        x_value = divided_by_degree(x_value, attention.sum(-2))
    out, _row_sum = call(
        "p_laplacian",
        attention.contiguous(),
        x_query.contiguous(),
        x_value.contiguous(),
        power,
        pull,
        residual == "query",
        self_loops == "keep",
        homogeneous and self_loops == "drop",
        eps,
    )
    return out.to(dtype)


@of_kinds
def p_laplacian_attention(
    query: Tensor,
    key: Tensor,
    x_query: Tensor,
    x_value: Tensor,
    p: Tensor | float,
    mu: Tensor | float,
    *,
    value: Tensor | None = None,
    mask: Tensor | None = None,
    is_causal: bool = False,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    residual: Residual = "query",
    self_loops: SelfLoops = "drop",
    degree: Degree = "none",
    homogeneous: bool = False,
    eps: float = 1e-8,
    return_lse: bool = False,
) -> PLaplacianOutput:
    """:func:`p_laplacian` of ``softmax(scale * query key^T + mask)``, whose matrix is never stored.

    Args:
        query: ``[B, H, Lq, e]`` float32, float64, bfloat16 or float16.
        key: ``[B, H, Lk, e]``, same dtype and device as all that follow.
        x_query, x_value, p, mu, residual, self_loops, degree, homogeneous, eps: as in :func:`p_laplacian`.
            ``self_loops="keep"`` is for comparison with the released code: it stores the probabilities.
            ``degree="paper"`` takes :func:`attention_column_sums` first. With ``is_causal`` a key's column sum depends
            on later queries, so that decoding step by step gives other results than the whole.
        value: ``[B, H, Lk, ev]``: also return the ordinary attention context from the same pass.
        mask: broadcastable to ``[B, H, Lq, Lk]``; bool (True: attend) or float, added to the products. No gradient.
        is_causal: query i attends to keys up to ``i + Lk - Lq``: the last query sees every key. For ``Lq = Lk`` this
            is torch's; for others torch aligns the first query with the first key instead.
        key_lengths: integer ``[B]``: only the first ``key_lengths[b]`` keys count.
        scale: default ``e ** -0.5``.
        return_lse: also return the log-sum-exp of the masked products.

    Returns:
        :class:`PLaplacianOutput`: ``out`` ``[B, H, Lq, d]`` and ``context`` ``[B, H, Lq, ev]`` (None without
        ``value``) in the inputs' dtype, ``lse`` ``[B, H, Lq]`` in float32 or float64 (None unless asked for). A fully
        masked row gives ``out = r``, context 0, lse minus infinity, and zero gradients but that of ``r``.

    Differentiable once in query, key, x_query, x_value, value, p and mu, through every result.

    Raises:
        InputError: shapes, dtypes or devices disagree, p, mu or eps is out of range, or ``mask`` requires a gradient.
    """
    tensors = {"query": query, "key": key, "x_query": x_query, "x_value": x_value}
    if value is not None:
        tensors["value"] = value
    query, key, x_query, x_value, *rest = checked(tensors)
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    check_shape("key", key, [batch, heads, keys, width])
    check_shape("x_query", x_query, [batch, heads, queries, x_query.shape[-1]])
    check_shape("x_value", x_value, [batch, heads, keys, x_query.shape[-1]])
    if rest:
        value = rest[0]
        check_shape("value", value, [batch, heads, keys, value.shape[-1]])
    check_options(residual, self_loops, degree, homogeneous, eps, queries, keys)
    mask, key_lengths = checked_mask(mask, key_lengths, query, keys)
    dtype, wide = query.dtype, accumulation_dtype(query.dtype)
    if self_loops == "keep" or reference_in_use():
        with torch.autocast(query.device.type, enabled=False):
            probabilities, lse = attention_probabilities(
                query.to(wide), key.to(wide), mask, is_causal, key_lengths, scale
            )
            nodes = (x_query.to(wide), x_value.to(wide))
            options: dict[str, Any] = {"residual": residual, "homogeneous": homogeneous, "eps": eps}
            out = p_laplacian(probabilities, *nodes, p, mu, self_loops=self_loops, degree=degree, **options)
            context = None if value is None else probabilities @ value.to(wide)
    else:
        if degree == "paper":
            # First, so that the gradients of both uses are added before they are rounded.
            query, key, x_query, x_value = (x.to(wide) for x in (query, key, x_query, x_value))
            value = None if value is None else value.to(wide)
            sums = attention_column_sums(
                query, key, mask=mask, is_causal=is_causal, key_lengths=key_lengths, scale=scale
            )
            x_value = divided_by_degree(x_value, sums)
        p, pull = power_and_pull(p, mu, query)
        out, _row_sum, lse, context = call(
            "p_laplacian_attention",
            query.contiguous(),
            key.contiguous(),
            None if value is None else value.contiguous(),
            x_query.contiguous(),
            x_value.contiguous(),
            p,
            pull,
            mask,
            key_lengths,
            scale_of(scale, width),
            is_causal,
            residual == "query",
            homogeneous,
        )
    return PLaplacianOutput(
        out.to(dtype),
        None if value is None or context is None else context.to(dtype),
        lse if return_lse else None,
    )
