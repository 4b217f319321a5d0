"""The structure of one relation of a heterogeneous graph: which sources each target sums over."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.ops import library
from vlmadapt.ops.checks import check_device

INDEX_TYPES = (torch.int32, torch.int64)


class Relation:
    """One relation in compressed rows: target ``i`` sums over ``columns[row_offsets[i]:row_offsets[i + 1]]``.

    Structure only, no weights; the transpose, which the backward pass reads, is worked out at the first use and kept.

    Args:
        row_offsets: int32 or int64 ``[n_t + 1]``, from 0 up to ``E``, never falling.
        columns: int32 or int64 ``[E]``, source indices in ``[0, num_sources - 1]``; a pair may occur several times.
        num_sources: ``n_s``.

    Attributes:
        row_offsets: int64 ``[n_t + 1]``.
        columns: ``[E]``, int32 or int64 as given (int64 beyond 2^31 - 1 edges or rows).
        num_targets, num_sources, num_edges: ``n_t``, ``n_s``, ``E``.

    Raises:
        InputError: a tensor is no integer vector, offsets fall or do not end at ``E``, or a column is out of range.
    """

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
        if not torch.compiler.is_compiling():
            _check_structure(row_offsets, columns, num_sources)
        largest = max(num_sources, len(row_offsets), len(columns))
        if columns.dtype == torch.int32 and largest > torch.iinfo(torch.int32).max:
            columns = columns.to(torch.int64)  # the transpose numbers edges and targets in this type too
        self.row_offsets = row_offsets.to(torch.int64).contiguous()
        self.columns = columns.contiguous()
        self.num_sources = num_sources
        self._transpose: tuple[Tensor, Tensor, Tensor] | None = None
        self._shares: dict[torch.dtype, Tensor] = {}

    @classmethod
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

    @property
    def num_targets(self) -> int:
        """``n_t``."""
        return len(self.row_offsets) - 1

    @property
    def num_edges(self) -> int:
        """``E``."""
        return len(self.columns)

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
            self._shares[dtype] = self.row_counts().to(dtype).reciprocal()[self.target_index()]
        return self._shares[dtype]

    def transpose(self) -> tuple[Tensor, Tensor, Tensor]:
        """The edges by source: offsets int64 ``[n_s + 1]``, and in the columns' type targets ``[E]`` and edges ``[E]``.

        Built at the first call and kept.
        """
        if self._transpose is None:
            parts = torch.ops.vlmadapt.transpose_relation(self.row_offsets.cpu(), self.columns.cpu(), self.num_sources)
            offsets, targets, edges = (part.to(self.columns.device) for part in parts)
            self._transpose = offsets, targets, edges
        return self._transpose


def _check_vector(name: str, tensor: Tensor) -> None:
    if tensor.dim() != 1 or tensor.dtype not in INDEX_TYPES:
        raise InputError(f"{name} must be an int32 or int64 vector but is {shape_of(tensor)}: reshape or cast it.")


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
