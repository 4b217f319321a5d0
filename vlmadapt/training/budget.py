"""Work on many rows in tiles, so that no temporary tensor outgrows one budget. Ours.

Whatever has a number for each sample and class, or more, is made for as many samples at a time, and of a grid for as
many candidates at a time, as fit into ``BUDGET``. Beside a few such tensors a fit holds the features, their class order
and what it trains. What fits into the budget as a whole is computed as a whole: the tiles of larger problems may round
products differently, and change nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vlmadapt.training.selection import log_probabilities

BUDGET = 64 << 20  # bytes of the largest temporary tensor
WIDEST = 8  # bytes of a number: likelihoods are float64

# Rows -> g -> candidates a, int64 [k] -> logits [k, rows, C]; each step keeps what the next ones share.
GridLogits = Callable[[slice], Callable[[int], Callable[[Tensor], Tensor]]]


def at_once(numbers: int) -> int:
    """How many things of ``numbers`` numbers each fit into the budget: at least one."""
    return max(1, BUDGET // (WIDEST * max(numbers, 1)))


def tiles(rows: int, numbers_a_row: int) -> Iterator[slice]:
    """Slices that cover ``rows``, each of as many rows as fit into the budget."""
    step = at_once(numbers_a_row)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def score_in_tiles(logits: Callable[[slice], Tensor], labels: Tensor, classes: int) -> tuple[float, float]:
    """:func:`score_logits` of ``logits(rows) [rows, C]`` against ``labels [B]``, tile by tile."""
    hits, total = 0, labels.new_zeros((), dtype=torch.float64)
    for rows in tiles(len(labels), classes):
        found = logits(rows)
        hits += int((found.argmax(-1) == labels[rows]).sum())
        total += log_probabilities(found, labels[rows]).sum(-1)
    return hits / len(labels), float(total / len(labels))


def grid_accuracy(logits: GridLogits, labels: Tensor, classes: int, shape: tuple[int, int], held: int = 1) -> Tensor:
    """Accuracy on ``labels [B]`` of every candidate of a grid of ``shape`` ``[G, A]``: float64 ``[G, A]``.

    ``held`` is how many numbers a sample and class ``logits(rows)`` makes in one tensor.
    """
    hits = labels.new_zeros(shape)
    for rows in tiles(len(labels), held * classes):
        at_rows = logits(rows)
        for g in range(shape[0]):
            at_g = at_rows(g)
            for some in _candidates(torch.arange(shape[1]), rows, classes):
                hits[g, some] += (at_g(some).argmax(-1) == labels[rows]).sum(-1)
    return hits.double() / len(labels)


def cell_likelihoods(logits: GridLogits, labels: Tensor, classes: int, g: Tensor, a: Tensor, held: int = 1) -> Tensor:
    """Mean log-probability of ``labels [B]`` by the candidates ``(g, a)``, int64 ``[T]`` each: float64 ``[T]``.

    ``held`` as in :func:`grid_accuracy`. Rows of one ``g`` are computed together, in whatever order the cells come.
    """
    g, a = g.cpu(), a.cpu()
    total = labels.new_zeros(len(g), dtype=torch.float64)
    for rows in tiles(len(labels), held * classes):
        at_rows = logits(rows)
        for one in g.unique().tolist():
            at_g = at_rows(one)
            for cells in _candidates(torch.nonzero(g == one).squeeze(-1), rows, classes):
                total[cells] += log_probabilities(at_g(a[cells]), labels[rows]).sum(-1)
    return total / len(labels)


def _candidates(cells: Tensor, rows: slice, classes: int) -> tuple[Tensor, ...]:
    return cells.split(at_once((rows.stop - rows.start) * classes))
