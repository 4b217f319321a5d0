"""Which classes are taken for which: the matrix of up to ``MOST`` classes, the worst pairs of more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.reporting.confusion import MOST, NUMBERED
from vlmadapt.reporting.report.charts import LONGEST, Figure, bars, heat_map, width_of
from vlmadapt.reporting.report.html import cut
from vlmadapt.reporting.table import Table

PAIRS = 40
SCALE = ((0.0, "@zero"), (1.0, "@s1"))


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """``[C, C]``, int64: rows are classes, columns what their pictures were taken for."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def confusion_figure(matrix: Tensor, names: Sequence[str]) -> tuple[Figure, int]:
    """The figure of a matrix ``[C, C]``, and the pixels it needs; classes without pictures are left out."""
    some = _seen(matrix)
    if not is_whole(matrix):
        pairs = worst_pairs(matrix, PAIRS)
        titles = [f"{cut(names[row], LONGEST)} → {cut(names[column], LONGEST)}" for row, column, _ in pairs]
        hover = [f"{names[row]} taken for {names[column]}: {count} pictures" for row, column, count in pairs]
        return bars(
            titles, [count for *_, count in pairs], hover, "test pictures", tone="@s0/0.7", longest=2 * LONGEST + 3
        ), 640
    listed, counts = [names[label] for label in some], matrix[some][:, some]
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    said = [
        [f"{count}, {100 * float(shares[i, j]):.0f} %" if count else "" for j, count in enumerate(row)]
        for i, row in enumerate(counts.tolist())
    ]
    written = [[str(count) if count else "" for count in row] for row in counts.tolist()]
    numbered = written if len(listed) <= NUMBERED else None
    legend = "share of the class"
    figure = heat_map(listed, listed, shares.tolist(), SCALE, (0, 1), said, " taken for ", numbered, legend)
    return figure, width_of(len(listed))


def is_whole(matrix: Tensor) -> bool:
    """Whether the figure of ``matrix`` shows all of it, not the worst pairs alone."""
    return len(_seen(matrix)) <= MOST


def _seen(matrix: Tensor) -> list[int]:
    """Classes that a picture is of or was taken for."""
    return torch.nonzero(matrix.sum(0) + matrix.sum(1)).squeeze(-1).tolist()


def worst_pairs(matrix: Tensor, most: int) -> list[tuple[int, int, int]]:
    """(class, what it was taken for, how many pictures), the most first."""
    wrong = matrix.clone().fill_diagonal_(0)
    order = torch.sort(wrong.flatten(), descending=True, stable=True)
    return [
        (*divmod(place, len(matrix)), count)
        for place, count in zip(order.indices[:most].tolist(), order.values[:most].tolist(), strict=True)
        if count
    ]


def pairs_table(matrices: Sequence[tuple[str, Tensor]], names: Sequence[str], notes: Sequence[str] = ()) -> Table:
    """The worst pairs of each matrix, which a name tells apart where there are several."""
    several = len(matrices) > 1
    most = max(8, PAIRS // len(matrices))
    rows = [
        [
            *([of] if several else []),
            *(names[row], names[column], f"{count:,}", f"{100 * count / int(matrix[row].sum()):.0f} %"),
        ]
        for of, matrix in matrices
        for row, column, count in worst_pairs(matrix, most)
    ]
    header = [*(["method"] if several else []), "class", "taken for", "pictures", "of the class"]
    left = frozenset(range(3 if several else 2))
    return Table("pairs confused most", header, rows or [[*["-"] * len(header)]], notes=notes, left=left)
