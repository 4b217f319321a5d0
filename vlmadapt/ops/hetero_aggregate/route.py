"""Which relations are multiplied as matrices: those that hold enough of all pairs for a product to be the faster.

The sparse kernel fetches a source row an edge, a product reads every pair but from registers: where a relation has more
than a share of all pairs, the product wins. That share depends on the machine alone, nearly, for the time of both grows
with the width. Relations that read one source share a product where they are added up, so each counts for all of them.
Shapes decide, never what a tensor holds.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vlmadapt.errors import InputError
from vlmadapt.ops.checks import accumulation_dtype, allow_tf32
from vlmadapt.ops.hetero_aggregate.checks import Arguments
from vlmadapt.ops.hetero_aggregate.relation import Relation

Route = Literal["auto", "sparse", "dense"]

# Measured by `python -m benchmarks.density`, see docs/performance-notes.md. The gradient of weights is a product more,
# of which few numbers are wanted; the sparse kernel has it from rows that it fetches anyway.
CPU_DENSITY = 0.45
CPU_DENSITY_TRAINED = 0.65
# By arithmetic, for no GPU has run it: an edge costs D elements at the 5.5 TB/s of an H200's L2 cache, a pair 2 D
# operations at 40 % of 48 TFLOP/s (float32), 350 (TF32) or 60 (float64), for products of a thousand rows fill no GPU.
# Of 16-bit elements the kernel reads half the bytes.
CUDA_DENSITY = {torch.float32: 0.15, torch.float64: 0.06}
CUDA_DENSITY_TF32 = 0.02
# Edges times width below which the kernel is taken, whatever the density. On the CPU a product is no slower there, but
# the 20 microseconds that it may save do not pay for results that depend on the number of threads.
LEAST_WORK = {"cpu": 1 << 17, "cuda": 1 << 24}
MOST_BYTES = 256 << 20  # of the matrices of one call


def dense_relations(given: Arguments, stacked: bool, route: Route) -> list[int]:
    """The numbers of the :class:`Relation` objects that go to products, rising.

    Raises:
        InputError: ``route`` is ``"dense"`` and the matrices would take more than ``MOST_BYTES``.
    """
    if route == "sparse":
        return []
    candidates = [r for r in given.sparse if _fits_a_matrix(given.relations[r])]
    if route == "auto":
        candidates = [r for r in candidates if _pays(given, r, stacked)]
    size = accumulation_dtype(given.sources[0].dtype).itemsize
    chosen, left = [], MOST_BYTES
    for r in sorted(candidates, key=lambda r: -_density(given.relations[r])):
        relation = given.relations[r]
        assert isinstance(relation, Relation)
        needed = relation.num_targets * relation.num_sources * size
        if needed > left and route == "dense":
            raise InputError(
                f"relations[{r}] would take the dense route's matrices beyond {MOST_BYTES >> 20} MB: choose route "
                "'auto' or 'sparse', or pass a matrix of your own as the relation."
            )
        if needed <= left:
            chosen.append(r)
            left -= needed
    return sorted(chosen)


def _fits_a_matrix(relation: Relation | Tensor) -> bool:
    """Not with repeated pairs under ``torch.compile``, which would add them in any order."""
    return isinstance(relation, Relation) and (relation.rising or not torch.compiler.is_compiling())


def _density(relation: Relation | Tensor) -> float:
    assert isinstance(relation, Relation)
    return relation.num_edges / max(relation.num_targets * relation.num_sources, 1)


def _pays(given: Arguments, r: int, stacked: bool) -> bool:
    relation, source = given.relations[r], given.sources[r]
    assert isinstance(relation, Relation)
    readers = 1 if stacked else sum(other is source for other in given.sources)
    work = relation.num_edges * source.shape[1]
    limit = threshold(source, given.weights[r])
    return work * readers >= LEAST_WORK[source.device.type] and _density(relation) * readers > limit


def threshold(source: Tensor, weights: Tensor | None = None) -> float:
    """The share of all pairs beyond which a relation of such sources and weights is multiplied as a matrix."""
    if source.device.type == "cpu":
        trained = torch.is_grad_enabled() and weights is not None and weights.requires_grad
        return CPU_DENSITY_TRAINED if trained else CPU_DENSITY
    wide = accumulation_dtype(source.dtype)
    share = CUDA_DENSITY_TF32 if wide == torch.float32 and allow_tf32(source) else CUDA_DENSITY[wide]
    return share * (2 if source.dtype.itemsize == 2 else 1)
