"""Which classes are taken for which, as a PNG: the whole matrix of a few classes, the worst pairs of many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlmadapt.atomic import atomic_path
from vlmadapt.experiments.evaluation import Evaluation
from vlmadapt.provenance.drawn import METADATA
from vlmadapt.reporting.fonts import short, wide_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 60  # classes of a matrix that can be read
NUMBERED = 25  # classes up to which each cell has its number
PAIRS = 30
BLUE = "#0072B2"


def draw_confusion(found: Evaluation, path: str | Path) -> Path:
    """Write the confusion matrix of ``found`` to ``path`` (PNG), of more than ``MOST`` classes the pairs mistaken most.

    Rows are classes, columns what their pictures were taken for; the colour is the share of the row's pictures. Classes
    that no picture is of and none was taken for are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = found.confusion
    some = torch.nonzero(matrix.sum(0) + matrix.sum(1)).squeeze(-1).tolist()
    with wide_fonts():
        figure = Figure(dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        draw = _draw_matrix if len(some) <= MOST else _draw_pairs
        what = draw(figure, matrix[some][:, some], [short(found.class_names[label], 28) for label in some])
        name, number = short(str(found.results.dataset["name"]), 60), len(found.labels)
        figure.suptitle(f"{name}, {number:,} test pictures\n{what}", x=0.01, ha="left", fontsize=8)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata=METADATA["png"])
    return Path(path)


def _draw_matrix(figure: Figure, matrix: torch.Tensor, names: list[str]) -> str:
    size = 2.2 + (0.34 if len(names) <= NUMBERED else 0.19) * len(names)
    figure.set_size_inches(max(size, 4.2), max(size, 3.6))
    axes: Axes = figure.add_subplot()
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    place = range(len(names))
    small: dict[str, Any] = {"fontsize": 8 if len(names) <= NUMBERED else 6}
    axes.set_xticks(place, names, rotation=90, **small)
    axes.set_yticks(place, names, **small)
    axes.set_xlabel("taken for", fontsize=9)
    axes.set_ylabel("class", fontsize=9)
    axes.tick_params(length=0)
    if len(names) <= NUMBERED:
        for row, column in torch.nonzero(matrix).tolist():
            colour = "white" if float(shares[row, column]) > 0.5 else "black"
            axes.text(column, row, str(int(matrix[row, column])), ha="center", va="center", fontsize=7, color=colour)
    return "what those of each class were taken for;\nthe darker, the larger the share of the class"


def _draw_pairs(figure: Figure, matrix: torch.Tensor, names: list[str]) -> str:
    wrong = matrix.clone().fill_diagonal_(0)
    order = torch.sort(wrong.flatten(), descending=True, stable=True)
    pairs = [
        (*divmod(place, len(names)), count)
        for place, count in zip(order.indices[:PAIRS].tolist(), order.values[:PAIRS].tolist(), strict=True)
        if count
    ]
    figure.set_size_inches(8.0, 1.2 + 0.24 * max(len(pairs), 3))
    axes: Axes = figure.add_subplot()
    labels = [f"{names[row]} taken for {names[column]}" for row, column, _ in pairs]
    axes.barh(range(len(pairs)), [count for *_, count in pairs], color=BLUE)
    for place, (row, _, count) in enumerate(pairs):
        share = 100 * count / int(matrix[row].sum())
        axes.text(count, place, f" {count}: {share:.0f} % of the class", va="center", fontsize=7)
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("test pictures", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return f"the {len(pairs)} pairs of {len(names)} classes that are confused most" if pairs else "no mistake"
