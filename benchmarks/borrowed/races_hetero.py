"""hetero_aggregate: six relations, 64 edges a target, width 512.

Ours is the sparse kernel, ours_dense the other route: whichever is the faster tells what CUDA_DENSITY ought to be. A
captured call makes its matrices anew in every replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.borrowed.race import DTYPES, Function, Race, compiled, differentiated
from benchmarks.rivals.hetero_aggregate import RELATIONS, TYPES, WIDTH, Case
from vlmadapt.ops.hetero_aggregate.route import MOST_BYTES

DENSE_CLASSES = 4000  # matrices [RELATIONS, C, C] beyond would take gigabytes


def dense(case: Case, dtype: torch.dtype) -> Function:
    """One product of all relations side by side; the matrix is made once."""
    matrix = torch.zeros(case.classes, RELATIONS * case.classes)
    for r, (columns, weight) in enumerate(zip(case.columns, case.weights, strict=True)):
        matrix.index_put_((case.rows, columns + r * case.classes), weight, accumulate=True)
    matrix = matrix.to(dtype)
    return lambda *sources: matrix @ torch.cat([sources[r % TYPES] for r in range(RELATIONS)])


def of_sources(function: Callable[[list[Tensor], list[Tensor]], Tensor], weights: list[Tensor]) -> Function:
    return lambda *sources: function(list(sources), weights)


def rivals(case: Case, dtype: str) -> dict[str, Callable[[], Function]]:
    weights = case.weights
    typed = [weight.to(DTYPES[dtype]) for weight in weights]  # what torch's own operators want
    found: dict[str, Callable[[], Function]] = {"ours": lambda: of_sources(partial(case.ours, route="sparse"), weights)}
    if RELATIONS * case.classes**2 * 4 <= MOST_BYTES:
        found["ours_dense"] = lambda: of_sources(partial(case.ours, route="dense"), weights)
    if case.classes <= DENSE_CLASSES:
        found["dense"] = lambda: dense(case, DTYPES[dtype])
    found |= {
        "torch.sparse": lambda: of_sources(case.torch_sparse, typed),
        "gather": lambda: of_sources(case.gather, typed),
        "compiled": lambda: of_sources(compiled(case.gather), typed),  # type: ignore[arg-type]
        "PyG": lambda: of_sources(case.pyg, typed),
    }
    return found


def work(case: Case, dtype: str, backward: bool) -> dict[str, float]:
    """Rows that the edges name are read from the L2 cache at best; each source and target once from memory."""
    element = 2 if dtype == "bf16" else 4
    edges = sum(len(columns) for columns in case.columns)
    once = (TYPES + 1) * case.classes * WIDTH * element + 8 * edges
    return {"l2": float((1 + backward) * edges * WIDTH * element), "copy": float((1 + backward) * once)}


def races(dry: bool, backward: bool, combinations: list[tuple[int, str]]) -> Iterator[Race]:
    for classes, dtype in combinations:
        case = Case(classes, min(64, classes), DTYPES[dtype])
        made = rivals(case, dtype)
        inputs = case.sources
        if backward:
            inputs = [source.requires_grad_() for source in inputs]
            made = differentiated(made, ("ours", "ours_dense", "dense", "torch.sparse"))

        def exact(case: Case = case) -> Tensor:
            return case.gather([x.double() for x in case.sources], [w.double() for w in case.weights])

        group = "hetero forward and backward" if backward else "hetero forward"
        amount = work(case, dtype, backward)
        products = {dtype: 2.0 * (1 + backward) * RELATIONS * classes**2 * WIDTH}
        shared = {unit: flops * TYPES / RELATIONS for unit, flops in products.items()}  # a product a source
        other = {
            name: flops | {"copy": amount["copy"]} for name, flops in (("dense", products), ("ours_dense", shared))
        }
        yield Race(group, f"C={classes}", dtype, inputs, amount, made, None if backward else exact, other_work=other)
        del case, inputs, made


def forward(dry: bool) -> Iterator[Race]:
    if dry:
        return races(dry, False, [(8, "fp32")])
    sizes = [(1000, "fp32"), (100, "fp32"), (1000, "bf16"), (1000, "tf32"), (21000, "fp32"), (4000, "fp32")]
    return races(dry, False, sizes)


def backward(dry: bool) -> Iterator[Race]:
    return races(dry, True, [(8, "fp32")] if dry else [(1000, "fp32"), (21000, "fp32")])
