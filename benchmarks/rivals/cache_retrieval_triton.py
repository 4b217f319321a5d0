"""The forward of cache_retrieval in Triton: a rival on a GPU, and a control of what a compiler makes of the same plan.

One program a tile of queries and keys: products, exponential and class sums, without a matrix of all pairs in memory.
For as many keys a class as divide its tile, in the classes' order; Triton's interpreter runs it on a CPU
(``TRITON_INTERPRET=1``), where tests compare it with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.rivals import MissingRival, needed

QUERIES, KEYS, COLUMNS = 128, 128, 64  # a tile
FEWEST = 16  # rows or columns of a product of tiles
# Of inputs in float32: what torch is set to.
PRECISIONS = {"ieee": "ieee", "none": "ieee", "tf32": "tf32"}


def twin(shots: int, classes: int, beta: float) -> Callable[[Tensor, Tensor], Tensor]:
    """``scores [B, C]`` in float32 of queries ``[B, D]`` and keys ``[C * shots, D]``.

    Raises :class:`MissingRival` without Triton, or for a number of shots that is no power of two up to ``KEYS``.
    """
    if shots < 1 or KEYS % shots:
        raise MissingRival(f"{shots} keys a class do not divide a tile of {KEYS}")
    kernel = _kernel(needed("triton", "Triton"))

    def function(queries: Tensor, keys: Tensor) -> Tensor:
        rows, width = queries.shape
        scores = torch.empty(rows, classes, device=queries.device)
        height = max(FEWEST, min(QUERIES, 1 << max(rows - 1, 0).bit_length()))
        grid = (-(-rows // height), -(-len(keys) // KEYS))
        precision = PRECISIONS[torch.backends.cuda.matmul.fp32_precision]
        kernel[grid](
            queries, keys, scores, rows, len(keys), classes, beta, width, shots, height, KEYS, COLUMNS, precision,
            num_warps=8 if height == QUERIES else 4, num_stages=3,
        )  # fmt: skip
        return scores

    return function


def _kernel(triton: Any) -> Any:
    import triton.language as tl

    @triton.jit
    def retrieve(
        queries, keys, scores, rows, entries, classes, beta,
        width: tl.constexpr, shots: tl.constexpr, height: tl.constexpr, across: tl.constexpr, step: tl.constexpr,
        precision: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0) * height + tl.arange(0, height)
        key = tl.program_id(1) * across + tl.arange(0, across)
        products = tl.zeros((height, across), tl.float32)
        for first in range(0, width, step):
            column = first + tl.arange(0, step)
            left = tl.load(
                queries + row.to(tl.int64)[:, None] * width + column[None, :],
                (row < rows)[:, None] & (column < width)[None, :],
                0.0,
            )
            right = tl.load(
                keys + key.to(tl.int64)[None, :] * width + column[:, None],
                (key < entries)[None, :] & (column < width)[:, None],
                0.0,
            )
            products = tl.dot(left, right, products, input_precision=precision)
        affinity = tl.exp(beta * products - beta)
        sums = tl.sum(tl.reshape(affinity, (height, across // shots, shots)), 2)
        of_class = tl.program_id(1) * (across // shots) + tl.arange(0, across // shots)
        inside = (row < rows)[:, None] & (of_class < classes)[None, :]
        tl.store(scores + row.to(tl.int64)[:, None] * classes + of_class[None, :], sums, inside)

    return retrieve
