"""Cache retrieval: class scores from exponentiated similarities to a cache of labelled keys.

    A_img[b, k] = exp(-beta      * (1 - queries[b] . keys[k]))                 arXiv 2111.03930
    A_txt[b, k] = exp(-text_beta * (1 - text_queries[b] . text_keys[k]))       arXiv 2404.12588
    A           = ratio * A_img + (1 - ratio) * A_txt
    S[b, c]     = sum of A[b, k] over the entries k with labels[k] = c
    S[b, c]     = sum of A_img[b, k] * values[k, c]                            with values in place of labels

:func:`cache_retrieval_reference` states this in plain PyTorch and is the truth of the tests; :func:`cache_retrieval`
runs the fused kernels, which hold neither the ``[B, n]`` affinities nor a one-hot matrix. The one exception: on the
CPU, where a gradient is wanted and they fit into ``KEPT_BYTES``, the forward keeps the similarities for the backward.
"""

from __future__ import annotations

from typing import Unpack, overload

import torch
from torch import Tensor

from vlmadapt.errors import InputError
from vlmadapt.kinds import of_kinds
from vlmadapt.ops import library
from vlmadapt.ops.cache_retrieval import autograd
from vlmadapt.ops.cache_retrieval.checks import (
    Both,
    PreparedCache,
    Route,
    ScoresOnly,
    checked_own_entry,
    checked_text,
    given_beta,
    prepared,
    route_number,
)
from vlmadapt.ops.cache_retrieval.dense import check_values
from vlmadapt.ops.cache_retrieval.moments import standardized, with_entries
from vlmadapt.ops.cache_retrieval.reference import cache_retrieval_reference
from vlmadapt.ops.checks import (
    accumulation_dtype,
    check_device,
    check_matrix,
    check_same,
    float32_products,
    per_row,
)
from vlmadapt.ops.switch import reference_in_use
from vlmadapt.ops.transforms import call, wants_gradient

# Similarities of at most this size are kept for the backward, larger ones computed again: small problems cannot hide
# the fourth product, large ones are why [B, n] must not be stored. Twice that where 16 bits of an affinity do, for
# which the gradient of the keys takes half of what it takes in float32.
KEPT_BYTES = 16 << 20

_Stream = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # queries, keys, scale, center


@overload
def cache_retrieval(
    queries: Tensor, keys: Tensor, labels: Tensor | PreparedCache, beta: Tensor | float, **more: Unpack[ScoresOnly]
) -> Tensor: ...


@overload
def cache_retrieval(
    queries: Tensor, keys: Tensor, labels: Tensor | PreparedCache, beta: Tensor | float, **more: Unpack[Both]
) -> tuple[Tensor, Tensor]: ...


@overload
def cache_retrieval(
    queries: Tensor,
    keys: Tensor,
    *,
    values: Tensor,
    beta: Tensor | float,
    standardize: bool = False,
    own_entry: Tensor | None = None,
    mask_own_scores: bool = False,
) -> Tensor: ...


@of_kinds
def cache_retrieval(
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
    route: Route = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Class scores of queries against a cache: products, exponential and class sum in one pass.

    Args:
        queries: ``[B, D]`` float32, float64, bfloat16 or float16, normalised rows.
        keys: ``[n, D]``, same dtype and device.
        labels: integer ``[n]``, or a :class:`PreparedCache` to save sorting them at every call.
        beta: sharpness of the affinity, > 0; a number, a 0-d tensor or ``[B]``. Always needed.
        values: ``[n, C]`` of any sign, same dtype and device, in place of ``labels``: each entry counts for class ``c``
            ``values[k, c]`` times, as soft labels or solved coefficients do. One stream only.
        num_classes: ``C``; needed when ``labels`` is a tensor.
        text_queries: ``[B, H]``, the second stream's queries (arXiv 2404.12588).
        text_keys: ``[n, H]``, or ``[C, H]`` with ``text_keys_per_class``, when the entries of a class share a key;
            that of a class without entries takes no part, whatever it holds, and has no gradient.
        text_beta: as ``beta``, for the second stream.
        ratio: share of the first stream in the mix, in [0, 1]; a number, a 0-d tensor or ``[B]``.
        standardize: replace each similarity ``s`` by ``(s - mean) / std`` over the cache, per query (ours). Where a
            query's similarities do not vary, ``std`` less than 1e-6 times the query's length and the root mean square
            of the keys' lengths, they are not divided: rounding is no deviation.
        own_entry: integer ``[B]``, the cache entry that a training query itself is, or -1. It never counts in the
            disagreement. Values beyond the cache are refused on a CPU; on a GPU, which a look at them would wait for,
            they are not looked at and mean nothing.
        mask_own_scores: leave the own entry out of the scores too.
        return_disagreement: also return the disagreement of the two streams.
        route: of labels on a GPU: ``"fused"``, one kernel for all; ``"chunked"``, products of a chunk of keys at a time
            by torch's library, into memory that the L2 cache holds, and one kernel for the rest; ``"auto"``, the one
            expected to be the faster, by shapes, dtype and TF32. The gradients of float16 are always fused.

    Returns:
        Scores ``[B, C]`` in float32 (float64 for float64 inputs); a class without entries scores 0. With
        ``return_disagreement`` also ``[B]``: the mean over the entries of ``|A_img - A_txt|``, without gradient.

    Differentiable once in queries, keys, values, text_queries, text_keys, beta, text_beta and ratio. NaN in a query,
    key or value gives NaN scores. Under autocast the computation is float32. On a GPU, float32 products use TF32 if
    ``torch.backends.cuda.matmul.fp32_precision`` is ``"tf32"``; on a CPU that gains by it, bfloat16 as
    ``torch.set_float32_matmul_precision`` allows (when compiling, under ``torch.compile``).

    Raises:
        InputError: shapes, dtypes or devices disagree, a label is out of range, a stream is incomplete, or not exactly
            one of ``labels`` and ``values`` is given, or the route is unknown.
    """
    number_of_route = route_number(route, values)
    library.require(queries.device)
    if torch.is_autocast_enabled(queries.device.type):
        queries, keys = queries.float(), keys.float()
        values = None if values is None else values.float()
        text_queries = None if text_queries is None else text_queries.float()
        text_keys = None if text_keys is None else text_keys.float()
    check_matrix("queries", queries)
    check_matrix("keys", keys)
    check_same("keys", keys, "queries", queries)
    cache = None
    if values is None:
        cache = prepared(labels, num_classes, keys)
    elif labels is not None:
        raise InputError("labels and values are both given: values take the place of labels, pass one of them.")
    elif text_queries is not None or text_keys is not None or return_disagreement:
        raise InputError("values are given together with a text stream: pass labels, or the first stream alone.")
    else:
        check_values(values, keys, num_classes)
    if own_entry is not None:
        check_device("own_entry", own_entry, "queries", queries)
        own_entry = checked_own_entry(own_entry, len(queries), len(keys))
    beta = per_row("beta", given_beta(beta), queries)
    mix = None
    if cache is not None and (text_queries is not None or text_keys is not None):
        text_queries, text_keys = checked_text(text_queries, text_keys, text_beta, text_keys_per_class, cache, queries)
        if text_beta is None or ratio is None:
            raise InputError("ratio must be given with a text stream: pass the first stream's share, in [0, 1].")
        text_beta, mix = per_row("text_beta", text_beta, text_queries), per_row("ratio", ratio, queries)
    elif return_disagreement:
        raise InputError("return_disagreement needs two streams: pass text_queries, text_keys, text_beta and ratio.")
    if reference_in_use():
        dtype = accumulation_dtype(queries.dtype)
        with torch.autocast(queries.device.type, enabled=False):
            return cache_retrieval_reference(
                queries.to(dtype),
                keys.to(dtype),
                cache,
                beta,
                values=None if values is None else values.to(dtype),
                text_queries=None if text_queries is None else text_queries.to(dtype),
                text_keys=None if text_keys is None else text_keys.to(dtype),
                text_beta=text_beta,
                text_keys_per_class=text_keys_per_class,
                ratio=mix,
                standardize=standardize,
                own_entry=own_entry,
                mask_own_scores=mask_own_scores,
                return_disagreement=return_disagreement,
            )
    image, number = _stream(beta, queries, keys, None, standardize)
    if cache is None:
        assert values is not None
        return _dense(image, number, values, own_entry if mask_own_scores else None)
    text: tuple[Tensor | None, ...] = (None, None, None, None)
    text_number = 1.0
    if text_queries is not None and text_keys is not None and text_beta is not None:
        counts = cache.counts() if text_keys_per_class else None
        text, text_number = _stream(text_beta, text_queries, text_keys, counts, standardize)
    ratios, share = _tensor_or_number(mix)
    matrices = 1 if text_keys_per_class or text[0] is None else 2
    affinities = autograd.keeps_affinities(queries, *image[2:], *text[2:], ratios)
    scores, disagreement, _similarities = call(
        "cache_retrieval",
        *image,
        *text,
        ratios,
        cache.order,
        cache.offsets,
        cache.labels,
        own_entry,
        number,
        text_number,
        share,
        text_keys_per_class,
        mask_own_scores,
        return_disagreement,
        _stores_similarities(*image, *text, ratios, matrices=matrices, affinities=affinities),
        number_of_route,
        float32_products(queries),
    )
    return (scores, disagreement) if return_disagreement else scores


def _dense(stream: _Stream, number: float, values: Tensor, own_entry: Tensor | None) -> Tensor:
    keys = stream[1]
    values = values.to(keys.dtype).contiguous()
    stores = _stores_similarities(*stream, values, matrices=1)
    scores, _similarities = call(
        "cache_retrieval_dense", *stream[:2], values, *stream[2:], own_entry, number, stores, float32_products(keys)
    )
    return scores


def _stream(
    beta: Tensor | float, queries: Tensor, keys: Tensor, counts: Tensor | None, standardize: bool
) -> tuple[_Stream, float]:
    """Queries, keys, ``scale`` and ``center`` [B] such that the affinity is ``exp(scale * (q . k - center))``, and a
    number that stands for ``scale`` where that is None; so does 1 for ``center``. A GPU is spared their kernels."""
    if counts is not None:
        keys = with_entries(keys, counts)
    if not standardize:
        scale, number = _tensor_or_number(beta)
        return (queries.contiguous(), keys.contiguous(), scale, None), number
    # 16-bit types could not hold the keys less their mean.
    dtype = accumulation_dtype(queries.dtype)
    queries = queries.to(dtype).contiguous()
    centered, deviation = standardized(queries, keys.to(dtype).contiguous(), counts)
    return (queries, centered, beta / deviation, deviation), 1.0


def _tensor_or_number(value: Tensor | float | None) -> tuple[Tensor | None, float]:
    if isinstance(value, Tensor):
        return value, 1.0
    return None, 1.0 if value is None else value


def _stores_similarities(
    queries: Tensor, keys: Tensor, *others: Tensor | None, matrices: int, affinities: bool = False
) -> bool:
    """Whether the forward stores the similarities of the streams with one key an entry for the backward, or their
    ``affinities`` in 16 bits."""
    if queries.device.type != "cpu" or torch.compiler.is_exporting():
        return False  # an exported program should not depend on whether its example was small
    if not wants_gradient(queries, keys, *others):
        return False
    elements = matrices * len(queries) * len(keys)
    if affinities:
        return 2 * elements <= 2 * KEPT_BYTES
    return accumulation_dtype(queries.dtype).itemsize * elements <= KEPT_BYTES
