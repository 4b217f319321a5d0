"""A picture of what each tuned method says about a few test pictures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmadapt.atomic import atomic_path
from vlmadapt.generative.data.records import Record
from vlmadapt.generative.tasks.answers import answer_accuracy
from vlmadapt.pictures import read
from vlmadapt.provenance.drawn import METADATA
from vlmadapt.reporting.evidence import AGREES, DISAGREES

# Inches.
SIDE, GAP, MARGIN, HEADER, LINE = 1.7, 0.25, 0.25, 0.75, 0.19
COLUMNS, WIDE_COLUMNS = 4, 2  # wide: captions


@dataclass(frozen=True)
class Said:
    """What methods say about one record: ``right`` None where there is no right and wrong (captions)."""

    record: Record
    truth: str
    texts: Mapping[str, tuple[str, bool | None]]


def choose_records(records: Sequence[Record], predictions: Mapping[str, Mapping[str, str]], count: int) -> list[Record]:
    """The first ``count`` records on which the methods disagree, each about another picture; filled up with others."""
    split = [record for record in records if len({said[record.id] for said in predictions.values()}) > 1]
    chosen: dict[Path, Record] = {}
    for record in [*split, *records]:
        chosen.setdefault(record.image, record)
        if len(chosen) == count:
            break
    return list(chosen.values())


def truth_of(record: Record) -> str:
    if record.captions:
        return record.captions[0]
    return record.label or record.answers[0][0]


def is_right(record: Record, text: str) -> bool | None:
    """Whether ``text`` has at least half of VQA's accuracy, or is the label; None for captions."""
    if record.captions:
        return None
    return answer_accuracy(text, record.answers) >= 0.5 if record.answers else text == record.label


def describe_records(records: Sequence[Record], predictions: Mapping[str, Mapping[str, str]]) -> list[Said]:
    """``predictions``: method -> record id -> text."""
    told = []
    for record in records:
        truth = truth_of(record)
        texts: dict[str, tuple[str, bool | None]] = {}
        for method, said in predictions.items():
            text = said[record.id]
            texts[method] = (text, is_right(record, text))
        told.append(Said(record, truth, texts))
    return told


def draw_said(told: Sequence[Said], title: str, subtitle: str, path: str | Path) -> Path:
    """Write the picture to ``path`` (PNG): blue is right, orange with a cross is wrong."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = any(each.record.captions for each in told)
    columns = min(WIDE_COLUMNS if wide else COLUMNS, len(told))
    rows = -(-len(told) // columns)
    names = list(told[0].texts)
    cell_width = SIDE + (3.9 if wide else 1.0)
    longest = 94 if wide else 40
    cell_height = SIDE + LINE * (len(names) + 3.2) + GAP
    width, height = 2 * MARGIN + columns * cell_width, HEADER + rows * cell_height + MARGIN
    with mpl.rc_context({"font.family": ["DejaVu Sans"]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width, height), dpi=150)
        FigureCanvasAgg(figure)

        def write(left: float, top: float, text: str, **style: Any) -> None:
            figure.text(left / width, 1 - top / height, text.replace("$", r"\$"), va="top", **style)

        write(MARGIN, 0.15, title, fontsize=12, fontweight="bold")
        write(MARGIN, 0.43, subtitle, fontsize=8.5, color="0.35")
        for number, each in enumerate(told):
            row, column = divmod(number, columns)
            left, top = MARGIN + column * cell_width, HEADER + row * cell_height
            axes = figure.add_axes((left / width, 1 - (top + SIDE) / height, SIDE / width, SIDE / height))
            axes.imshow(read(each.record.image), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            y = top + SIDE + 0.07
            write(left, y, _short(each.record.prompt or "caption", longest), fontsize=7.5, fontweight="bold")
            write(left, y + LINE, _short(f"truth: {each.truth}", longest), fontsize=8, color="0.35")
            for line, name in enumerate(names, start=2):
                text, right = each.texts[name]
                colour = "0.1" if right is None else AGREES if right else DISAGREES
                mark = "" if right is None else " ✓" if right else " ✗"
                write(
                    left,
                    y + line * LINE,
                    _short(f"{name}: {text}", longest) + mark,
                    fontsize=8,
                    color=colour,
                )
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata=METADATA["png"])
    return Path(path)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
