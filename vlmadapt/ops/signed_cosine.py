"""The signed-cosine graph of two sets of features, without ever holding the ``[n_t, n_s]`` matrix.

    r[i, j] = cos(targets[i], sources[j])        diagonal (i = j) kept, negated or zero; never clamped

These are the relations of HeGraphAdapter (arXiv 2410.07854), where the rows are class features. The three functions
are ours: degrees and strongest edges come from a pass over tiles, and the aggregate factorises,

    sum_j r[i, j] s_j x_j = t_i . (sum_j n_j s_j x_j^T) + correction of the diagonal       (t, n: unit rows)

so that it costs ``O((n_t + n_s) D D')`` instead of ``O(n_t n_s (D + D'))``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.relation import Relation

Diagonal = Literal["keep", "negate", "zero"]


def signed_cosine_degrees(targets: Tensor, sources: Tensor, *, diagonal: Diagonal = "keep") -> tuple[Tensor, Tensor]:
    """Row and column sums of ``|r|``.

    Args:
        targets: ``[n_t, D]``, float32, float64, bfloat16 or float16; rows of any length.
        sources: ``[n_s, D]``, same dtype and device; ``n_s = n_t`` unless the diagonal is kept.
        diagonal: what becomes of ``r[i, i]``.

    Returns:
        ``[n_t]`` and ``[n_s]`` in float32 (float64 for float64). No gradient.

    Raises:
        InputError: shapes, dtypes or devices disagree, or ``diagonal`` is unknown.
    """
    dense = signed_cosine_reference(targets, sources, diagonal=diagonal).detach().abs()
    return dense.sum(1), dense.sum(0)


def signed_cosine_top_k(
    targets: Tensor, sources: Tensor, k: int, *, diagonal: Diagonal = "keep"
) -> tuple[Relation, Tensor]:
    """The ``k`` largest ``|r|`` of each row with their signs, as a sparse relation.

    Args:
        targets, sources, diagonal: as in :func:`signed_cosine_degrees`; a zero diagonal is no edge.
        k: edges a row, at least 1; fewer where a row has fewer.

    Returns:
        The relation, columns rising in each row, and its weights ``[E]`` in float32 (float64 for float64). Among
        equal magnitudes the lower column wins; NaN counts as the largest. No gradient.

    Raises:
        InputError: as :func:`signed_cosine_degrees`, or ``k`` is less than 1.
    """
    dense = signed_cosine_reference(targets, sources, diagonal=diagonal).detach()
    magnitude = dense.abs().nan_to_num(nan=torch.inf)
    if diagonal == "zero":
        magnitude.fill_diagonal_(-1)
    kept = min(k, dense.shape[1] - (diagonal == "zero"))
    columns = torch.argsort(magnitude, dim=1, descending=True, stable=True)[:, :kept].sort(1)[0]
    offsets = torch.arange(len(dense) + 1, device=dense.device) * kept
    return Relation(offsets, columns.reshape(-1), dense.shape[1]), dense.gather(1, columns).reshape(-1)


def signed_cosine_aggregate(
    targets: Tensor,
    sources: Tensor,
    features: Tensor,
    *,
    diagonal: Diagonal = "keep",
    target_scale: Tensor | None = None,
    source_scale: Tensor | None = None,
) -> Tensor:
    """``out[i] = target_scale[i] * sum_j r[i, j] * source_scale[j] * features[j]``, factorised.

    Args:
        targets, sources, diagonal: as in :func:`signed_cosine_degrees`.
        features: ``[n_s, D']``, same dtype and device.
        target_scale: ``[n_t]``, or None for ones.
        source_scale: ``[n_s]``, or None for ones.

    Returns:
        ``[n_t, D']`` in float32 (float64 for float64). Differentiable in every tensor.

    Raises:
        InputError: shapes, dtypes or devices disagree, or ``diagonal`` is unknown.
    """
    dense = signed_cosine_reference(targets, sources, diagonal=diagonal)
    if source_scale is not None:
        features = features * source_scale.unsqueeze(-1)
    out = dense @ features.to(dense.dtype)
    return out if target_scale is None else out * target_scale.unsqueeze(-1)


def signed_cosine_reference(targets: Tensor, sources: Tensor, *, diagonal: Diagonal = "keep") -> Tensor:
    """The dense ``[n_t, n_s]`` matrix ``r`` in plain PyTorch: the truth of the tests."""
    dtype = accumulation_dtype(targets.dtype)
    dense = normalize(targets.to(dtype), dim=-1) @ normalize(sources.to(dtype), dim=-1).T
    if diagonal == "keep":
        return dense
    eye = torch.eye(*dense.shape, dtype=dtype, device=dense.device)
    return dense * (1 - eye * (2 if diagonal == "negate" else 1))
