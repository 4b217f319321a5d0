"""The structure of one relation of a heterogeneous graph: which sources each target sums over."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.kinds import of_kinds
from vlmadapt.ops import library
from vlmadapt.ops.checks import check_device

INDEX_TYPES = (torch.int32, torch.int64)


class Matrix(NamedTuple):
    """A relation's matrix, and the weights that it was made of."""

    values: Tensor
    weights: Tensor | None
    version: int
    mean: bool


class Relation:
    """One relation in compressed rows: target ``i`` sums over ``columns[row_offsets[i]:row_offsets[i + 1]]``.

    The transpose, which the backward pass reads, is worked out at the first use and kept. So is the matrix that the
    dense route multiplies, for as long as it is asked for with the same weights.

    Args:
        row_offsets: int32 or int64 ``[n_t + 1]``, from 0 up to ``E``, never falling.
        columns: int32 or int64 ``[E]``, source indices in ``[0, num_sources - 1]``; a pair may occur several times.
        num_sources: ``n_s``.

    Attributes:
        row_offsets: int64 ``[n_t + 1]``.
        columns: ``[E]``, int32 or int64 as given (int64 beyond 2^31 - 1 edges or rows).
        num_targets, num_sources, num_edges: ``n_t``, ``n_s``, ``E``.
        rising: whether the columns rise in every row, so that no pair comes twice; False where that was not looked at.

    Raises:
        InputError: a tensor is no integer vector, offsets fall or do not end at ``E``, or a column is out of range.
    """

    @of_kinds
    def __init__(self, row_offsets: Tensor, columns: Tensor, num_sources: int) -> None:
        library.require(columns.device)
        _check_vector("row_offsets", row_offsets)
        _check_vector("columns", columns)
        if row_offsets.device != columns.device or len(row_offsets) == 0:
            raise InputError(
                f"row_offsets is {shape_of(row_offsets)} on {row_offsets.device} but needs one element more than there "
                f"are targets, on {columns.device} like columns: pass [n_t + 1] offsets."
            )
        if num_sources < 0:
            raise InputError(f"num_sources is {num_sources}: pass the number of source rows.")
        self.rising = False
        if not torch.compiler.is_compiling():
            _check_structure(row_offsets, columns, num_sources)
            self.rising = _rises(row_offsets, columns)
        largest = max(num_sources, len(row_offsets), len(columns))
        if columns.dtype == torch.int32 and largest > torch.iinfo(torch.int32).max:
            columns = columns.to(torch.int64)  # the transpose numbers edges and targets in this type too
        self.row_offsets = row_offsets.to(torch.int64).contiguous()
        self.columns = columns.contiguous()
        self.num_targets, self.num_sources = row_offsets.shape[0] - 1, num_sources
        self.num_edges = columns.shape[0]
        self._transpose: tuple[Tensor, Tensor, Tensor] | None = None
        self._shares: dict[torch.dtype, Tensor] = {}
        self._places: Tensor | None = None
        self._matrix: Matrix | None = None

    @classmethod
    @of_kinds
    def from_edges(
        cls, target_index: Tensor, source_index: Tensor, num_targets: int, num_sources: int
    ) -> tuple[Relation, Tensor]:
        """A relation from a list of edges, and the permutation that sorts the edges' weights alike.

        Args:
            target_index, source_index: int32 or int64 ``[E]`` in any order; the relation keeps the sources' type.
            num_targets, num_sources: ``n_t`` and ``n_s``.

        Returns:
            The relation, its edges sorted by target, then source, and int64 ``[E]``: pass ``weights[permutation]``.

        Raises:
            InputError: the two differ in length, or an index is out of range.
        """
        _check_vector("target_index", target_index)
        _check_vector("source_index", source_index)
        check_device("target_index", target_index, "source_index", source_index)
        if len(target_index) != len(source_index):
            raise InputError(
                f"target_index has {len(target_index)} elements but source_index has {len(source_index)}: "
                "give one of each for every edge."
            )
        if target_index.numel() and not 0 <= int(target_index.min()) <= int(target_index.max()) < num_targets:
            raise InputError(
                f"target_index holds values from {int(target_index.min())} to {int(target_index.max())} but must lie "
                f"in [0, {num_targets - 1}]: number the targets from 0 and pass the right num_targets."
            )
        by_source = torch.argsort(source_index, stable=True)
        permutation = by_source[torch.argsort(target_index[by_source], stable=True)]
        counts = torch.bincount(target_index, minlength=num_targets)
        row_offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(row_offsets, source_index[permutation], num_sources), permutation

    def row_counts(self) -> Tensor:
        """int64 ``[n_t]``: edges of each target."""
        return self.row_offsets[1:] - self.row_offsets[:-1]

    def target_index(self) -> Tensor:
        """int64 ``[E]``: the target of each edge."""
        targets = torch.arange(self.num_targets, device=self.columns.device)
        return targets.repeat_interleave(self.row_counts(), output_size=self.num_edges)

    def shares(self, dtype: torch.dtype) -> Tensor:
        """``[E]``: one over the number of edges of each edge's target, the weights of a mean, in ``dtype``. Kept."""
        if dtype not in self._shares:
            with _lasting():
                self._shares[dtype] = self.row_counts().to(dtype).reciprocal()[self.target_index()]
        return self._shares[dtype]

    def matrix(self, weights: Tensor | None, dtype: torch.dtype, mean: bool = False) -> Tensor:
        """``[n_t, n_s]`` in ``dtype``: the edges' weights, pairs that come twice added up in the edges' order.

        Kept where the weights require no gradient, and given again for the same tensor unless torch has counted a
        change of it; what changes them unseen, through ``.data`` or memory shared with NumPy, calls for :meth:`forget`.
        Made anew under ``torch.compile`` and in a capture of a CUDA graph, which must see every change.

        Args:
            weights: ``[E]``, or None for ones.
            mean: divided by the number of edges of the target.
        """
        if not self._may_be_kept(weights):
            if self._places is None:
                self._places = self._all_places()
            return self._scattered(self._places, weights, dtype, mean)
        kept, version = self._matrix, 0 if weights is None else weights._version
        if kept is None or kept.weights is not weights or (kept.version, kept.mean) != (version, mean):
            kept = None
        if kept is None or kept.values.dtype != dtype:
            with _lasting():
                values = self._scattered(self._all_places(), weights, dtype, mean)
            kept = Matrix(values, weights, version, mean)
            if type(values) is Tensor:  # none of a mode that has no data
                self._matrix = kept
        return kept.values

    def forget(self) -> None:
        """Drop the matrix that is kept of frozen weights; the next call that needs it makes it anew."""
        self._matrix = None

    def _may_be_kept(self, weights: Tensor | None) -> bool:
        if torch.compiler.is_compiling():
            return False
        if self.columns.is_cuda and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            return False
        return weights is None or not (weights.requires_grad or weights.is_inference())

    def _all_places(self) -> Tensor:
        """int64 ``[E]``: where each edge is in the matrix, row after row."""
        return self.target_index() * self.num_sources + self.columns

    def _scattered(self, places: Tensor, weights: Tensor | None, dtype: torch.dtype, mean: bool) -> Tensor:
        values = torch.ones_like(places, dtype=dtype) if weights is None else weights.to(dtype)
        if mean:
            values = values * self.shares(dtype)
        empty = values.new_zeros(self.num_targets * self.num_sources)
        if self.rising:
            full = empty.scatter(0, places, values)
        elif values.is_cuda:  # sorts first, where scatter_add would add in any order
            full = empty.index_put((places,), values, accumulate=True)
        else:
            full = empty.scatter_add(0, places, values)
        return full.view(self.num_targets, self.num_sources)

    def transpose(self) -> tuple[Tensor, Tensor, Tensor]:
        """The edges by source: offsets int64 ``[n_s + 1]``, and in the columns' type targets ``[E]`` and edges ``[E]``.

        Built at the first call and kept.
        """
        if self._transpose is None:
            parts = torch.ops.vlmadapt.transpose_relation(self.row_offsets.cpu(), self.columns.cpu(), self.num_sources)
            offsets, targets, edges = (part.to(self.columns.device) for part in parts)
            self._transpose = offsets, targets, edges
        return self._transpose


def _lasting() -> AbstractContextManager[object]:
    """For what is kept: a tensor made in inference mode could not be saved for a backward later."""
    return nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(False)


def _check_vector(name: str, tensor: Tensor) -> None:
    if tensor.dim() != 1 or tensor.dtype not in INDEX_TYPES:
        raise InputError(f"{name} must be an int32 or int64 vector but is {shape_of(tensor)}: reshape or cast it.")


def _rises(row_offsets: Tensor, columns: Tensor) -> bool:
    first = torch.zeros(len(columns) + 1, dtype=torch.bool, device=columns.device)
    first[row_offsets.long()] = True
    return bool((first[1:-1] | (columns[1:] > columns[:-1])).all())


def _check_structure(row_offsets: Tensor, columns: Tensor, num_sources: int) -> None:
    first, last = int(row_offsets[0]), int(row_offsets[-1])
    if first != 0 or last != len(columns) or bool((row_offsets[1:] < row_offsets[:-1]).any()):
        raise InputError(
            f"row_offsets runs from {first} to {last} but must rise from 0 to the {len(columns)} edges of columns "
            "without falling: pass the cumulative number of edges a target."
        )
    if columns.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(columns))
    if low < 0 or high >= num_sources:
        raise InputError(
            f"columns hold {low if low < 0 else high} but must lie in [0, {num_sources - 1}]: "
            "number the sources from 0 and pass the right num_sources."
        )
