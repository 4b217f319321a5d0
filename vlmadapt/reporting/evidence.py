"""A picture of a decision: the query beside the cached support pictures that voted for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vlmadapt.files import atomic_path

AGREES, DISAGREES = "#0072B2", "#D55E00"  # told apart by the common kinds of colour blindness


@dataclass(frozen=True)
class Witness:
    """A support picture that voted: ``image`` is None when the file is gone; ``share`` is in [0, 1]."""

    image: Image.Image | None
    name: str
    class_name: str
    share: float
    agrees: bool


def draw_evidence(
    query: Image.Image,
    title: str,
    subtitle: str,
    witnesses: Sequence[Witness],
    path: str | Path,
) -> Path:
    """Write the picture to ``path`` (PNG). ``title`` is the predicted class, ``subtitle`` its probability or the file.

    A blue frame marks a support picture of the predicted class, an orange dashed one a picture of another class.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(5, len(witnesses)))
    rows = max(1, -(-len(witnesses) // columns))
    figure = Figure(figsize=(3.2 + 1.75 * columns, max(3.4, 2.35 * rows + 0.5)), dpi=150)
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=[3.2, 1.75 * columns])
    axes = left.add_axes((0.06, 0.05, 0.88, 0.74))
    _picture(axes, query)
    left.text(0.06, 0.93, _short(title, 26), fontsize=13, fontweight="bold", va="top")
    left.text(0.06, 0.845, _short(subtitle, 42), fontsize=8.5, color="0.35", va="top")
    right.text(0.01, 0.93, "Support pictures with the largest share of the vote", fontsize=10, va="top")
    for i, witness in enumerate(witnesses):
        row, column = divmod(i, columns)
        width, height = 1 / columns, 0.86 / rows
        bottom = 0.86 - (row + 1) * height
        # The caption needs a fixed height whatever the number of rows.
        caption = 0.62 / figure.get_figheight()
        axes = right.add_axes((column * width + 0.02 * width, bottom + caption, 0.94 * width, height - caption - 0.02))
        _picture(axes, witness.image, frame=AGREES if witness.agrees else DISAGREES, dashed=not witness.agrees)
        axes.set_xlabel(f"{_short(witness.class_name, 20)}\n{100 * witness.share:.1f} %", fontsize=9, labelpad=4)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)


def _picture(axes, image: Image.Image | None, frame: str = "0.7", dashed: bool = False) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if image is None:
        axes.set_facecolor("0.93")
        axes.text(0.5, 0.5, "picture\nnot found", ha="center", va="center", fontsize=8, color="0.4",
                  transform=axes.transAxes)
        axes.set_aspect("equal")
    else:
        axes.imshow(_square(image))
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=2.4, linestyle="--" if dashed else "-")


def _square(image: Image.Image, side: int = 320) -> Image.Image:
    """The whole picture on a white square, so that tall and wide pictures line up."""
    shown = image.convert("RGB")
    scale = side / max(shown.size)
    size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    shown = shown.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    square = Image.new("RGB", (side, side), "white")
    square.paste(shown, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def _short(text: str, width: int) -> str:
    """``text`` cut to ``width`` characters, with its dollar signs kept from matplotlib's mathematics mode."""
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return cut.replace("$", r"\$")
