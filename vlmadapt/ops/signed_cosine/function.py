"""The signed-cosine graph of two sets of features, without ever holding the ``[n_t, n_s]`` matrix.

    r[i, j] = cos(targets[i], sources[j])        diagonal (i = j) kept, negated or zero; never clamped

These are the relations of HeGraphAdapter (arXiv 2410.07854), where the rows are class features. The three functions
are ours: degrees and strongest edges come from a pass over tiles, and the aggregate factorises,

    sum_j r[i, j] s_j x_j = t_i . (sum_j n_j s_j x_j^T) + correction of the diagonal       (t, n: unit rows)

so that it costs ``O((n_t + n_s) D D')`` instead of ``O(n_t n_s (D + D'))``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlmadapt.errors import InputError
from vlmadapt.kinds import of_kinds
from vlmadapt.ops.checks import accumulation_dtype, check_matrix, check_same
from vlmadapt.ops.hetero_aggregate import Relation
from vlmadapt.ops.signed_cosine import autograd  # noqa: F401  (registers the fake kernel)
from vlmadapt.ops.signed_cosine.checks import Diagonal, check_graph, check_scale
from vlmadapt.ops.signed_cosine.reference import signed_cosine_reference
from vlmadapt.ops.switch import reference_in_use

TILE_BYTES = 16 << 20  # of r at a time, in one buffer that is used again


@torch.no_grad()
@of_kinds
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
    check_graph(targets, sources, diagonal)
    row_degree = targets.new_empty(len(targets), dtype=accumulation_dtype(targets.dtype))
    column_degree = row_degree.new_zeros(len(sources))
    for first, tile in _tiles(targets, sources, diagonal):
        tile.abs_()
        row_degree[first : first + len(tile)] = tile.sum(1)
        column_degree += tile.sum(0)
    return row_degree, column_degree


@torch.no_grad()
@of_kinds
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
    check_graph(targets, sources, diagonal)
    if k < 1:
        raise InputError(f"k is {k}: pass the number of edges a row, at least 1.")
    skip = diagonal == "zero"
    kept = max(min(k, len(sources) - skip), 0)
    columns = torch.empty(len(targets), kept, dtype=torch.int64, device=targets.device)
    weights = torch.empty(len(targets), kept, dtype=accumulation_dtype(targets.dtype), device=targets.device)
    for first, tile in _tiles(targets, sources, diagonal):
        rows = slice(first, first + len(tile))
        columns[rows], weights[rows] = _top_k_of_tile(tile, kept, first, skip)
    offsets = torch.arange(len(targets) + 1, device=targets.device) * kept
    if len(sources) <= torch.iinfo(torch.int32).max:
        columns = columns.to(torch.int32)
    return Relation(offsets, columns.reshape(-1), len(sources)), weights.reshape(-1)


@of_kinds
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
    check_graph(targets, sources, diagonal)
    check_matrix("features", features)
    check_same("features", features, "targets", targets, width=False)
    if len(features) != len(sources):
        raise InputError(
            f"features has {len(features)} rows but there are {len(sources)} sources: give one row a source."
        )
    check_scale("target_scale", target_scale, targets)
    check_scale("source_scale", source_scale, sources)
    dtype = accumulation_dtype(targets.dtype)
    with torch.autocast(targets.device.type, enabled=False):
        moments = features.to(dtype)
        if source_scale is not None:
            moments = moments * source_scale.to(dtype).unsqueeze(-1)
        rows, columns, width = len(targets), len(sources), targets.shape[1]
        out_width = features.shape[1]
        few_rows = rows * columns * (width + out_width) <= (rows + columns) * width * out_width  # r itself is smaller
        if few_rows or reference_in_use():
            out = signed_cosine_reference(targets, sources, diagonal=diagonal) @ moments
        else:
            unit_targets, unit_sources = normalize(targets.to(dtype), dim=-1), normalize(sources.to(dtype), dim=-1)
            out = unit_targets @ (unit_sources.T @ moments)
            if diagonal != "keep":
                cosines = (unit_targets * unit_sources).sum(-1, keepdim=True)
                out = out - (2 if diagonal == "negate" else 1) * cosines * moments
        return out if target_scale is None else out * target_scale.to(dtype).unsqueeze(-1)


def _tiles(targets: Tensor, sources: Tensor, diagonal: Diagonal) -> Iterator[tuple[int, Tensor]]:
    """``(first row, rows of r)`` through BLAS into one buffer, which the caller may spoil."""
    dtype = accumulation_dtype(targets.dtype)
    with torch.autocast(targets.device.type, enabled=False):
        if reference_in_use():
            yield 0, signed_cosine_reference(targets, sources, diagonal=diagonal)
            return
        targets, sources = normalize(targets.detach().to(dtype), dim=-1), normalize(sources.detach().to(dtype), dim=-1)
        height = max(TILE_BYTES // max(len(sources) * targets.element_size(), 1), 16)
        buffer = targets.new_empty(min(height, len(targets)), len(sources))
        for first in range(0, len(targets), height):
            block = targets[first : first + height]
            tile = torch.mm(block, sources.T, out=buffer[: len(block)])
            if diagonal != "keep":
                tile.diagonal(first).mul_(-1) if diagonal == "negate" else tile.diagonal(first).zero_()
            yield first, tile


def _top_k_of_tile(tile: Tensor, k: int, first_row: int, skip_diagonal: bool) -> tuple[Tensor, Tensor]:
    """Columns and values ``[rows, k]`` of the largest magnitudes, columns rising."""
    if tile.device.type == "cpu" and not reference_in_use():
        return torch.ops.vlmadapt.signed_cosine_top_k(tile, k, first_row, skip_diagonal)
    magnitude = tile.abs().nan_to_num(nan=torch.inf)
    if skip_diagonal:
        magnitude.diagonal(first_row).fill_(-1)
    columns = torch.sort(magnitude, dim=1, descending=True, stable=True)[1][:, :k].sort(1)[0]
    return columns, tile.gather(1, columns)
