"""A picture of a decision: the query beside the cached support pictures that voted for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vlmadapt.atomic import atomic_path
from vlmadapt.pictures import read
from vlmadapt.provenance.drawn import METADATA
from vlmadapt.reporting.fonts import short, wide_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches.
QUERY, TILE, GAP, MARGIN, HEADER, CAPTION, FOOTER = 2.7, 1.5, 0.14, 0.2, 0.8, 0.62, 0.3
COLUMNS = 5
AGREES, DISAGREES = "#0072B2", "#D55E00"  # told apart by the common kinds of colour blindness


@dataclass(frozen=True)
class Witness:
    """A support picture that voted: ``image`` is None when the file is gone; ``share`` is in [0, 1]."""

    image: Image.Image | None
    class_name: str
    share: float
    agrees: bool


def draw_evidence(
    query: Image.Image,
    title: str,
    subtitle: str,
    witnesses: Sequence[Witness],
    path: str | Path,
    heading: str = "and their share of the whole vote",
) -> Path:
    """Write the picture to ``path`` (PNG). ``title`` is the predicted class, ``subtitle`` its probability or the file.

    A blue frame marks a support picture of the predicted class, an orange dashed one a picture of another class.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(3, min(COLUMNS, len(witnesses)))
    rows = max(1, -(-len(witnesses) // columns))
    width = 3 * MARGIN + QUERY + columns * (TILE + GAP)
    height = HEADER + max(QUERY, rows * (TILE + CAPTION)) + FOOTER
    right = 2.5 * MARGIN + QUERY
    with wide_fonts():
        figure = Figure(figsize=(width, height), dpi=150)
        FigureCanvasAgg(figure)

        def write(left: float, top: float, text: str, **style: Any) -> None:
            figure.text(left / width, 1 - top / height, text, va="top", **style)

        def place(left: float, top: float, side: float) -> Axes:
            return figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))

        write(MARGIN, 0.18, short(title, 26), fontsize=14, fontweight="bold")
        write(MARGIN, 0.47, short(subtitle, 44), fontsize=9, color="0.35")
        write(right, 0.22, "Cached support pictures that voted most", fontsize=11)
        write(right, 0.48, short(heading, 80), fontsize=9, color="0.35")
        _picture(place(MARGIN, HEADER, QUERY), query)
        for i, witness in enumerate(witnesses):
            row, column = divmod(i, columns)
            axes = place(right + column * (TILE + GAP), HEADER + row * (TILE + CAPTION), TILE)
            _picture(axes, witness.image, frame=AGREES if witness.agrees else DISAGREES, dashed=not witness.agrees)
            axes.set_xlabel(f"{short(witness.class_name, 20)}\n{100 * witness.share:.1f} %", fontsize=9, labelpad=4)
        write(right, height - FOOTER + 0.04, "solid blue: the predicted class", fontsize=8, color=AGREES)
        write(right + 1.9, height - FOOTER + 0.04, "dashed orange: another class", fontsize=8, color=DISAGREES)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata=METADATA["png"])
    return Path(path)


def _picture(axes: Axes, image: Image.Image | None, frame: str = "0.7", dashed: bool = False) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if image is None:
        axes.set_facecolor("0.93")
        middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, "picture\nnot found", fontsize=8, color="0.4", **middle)
    else:
        axes.imshow(_square(image))
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=2.4, linestyle="--" if dashed else "-")


def _square(image: Image.Image, side: int = 320) -> Image.Image:
    """The whole picture on a white square, so that tall and wide pictures line up."""
    shown = read(image)
    scale = side / max(shown.size)
    size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    shown = shown.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    square = Image.new("RGB", (side, side), "white")
    square.paste(shown, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
