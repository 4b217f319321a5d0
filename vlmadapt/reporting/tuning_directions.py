"""What the comparison of docs/tuning.md says about the p-adapter's parts, beside what its paper says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vlmadapt.generative.comparison import APPNP, FROM_FROZEN, NO_DEGREES, NO_PULL, NOISE, PAPER, ZEROS, place
from vlmadapt.generative.data.records import Record
from vlmadapt.generative.results import TuningResults
from vlmadapt.generative.tasks import TASK_CLASSES
from vlmadapt.generative.tuning import predictions_of
from vlmadapt.provenance.bootstrap import drawn, interval_of
from vlmadapt.provenance.intervals import Interval
from vlmadapt.reporting.table import Table


@dataclass(frozen=True)
class Question:
    """``of`` less ``than``, in points. paper: what arXiv 2312.10613 reports of the like, in points of its own mean over
    VQA, entailment and captions; empty where it reports nothing."""

    asks: str
    of: str
    than: str
    paper: str = ""


QUESTIONS = (
    Question("does the graph help over a plain adapter (paper's form)?", PAPER, "bottleneck", "+1.25"),
    Question("the same, gated form", "p-adapter", "bottleneck"),
    Question("the same, released code", "p-adapter-released", "bottleneck"),
    Question("the same, paper's form from the frozen model", FROM_FROZEN, "bottleneck"),
    Question("does a trained p help over p = 2 (APPNP)?", PAPER, APPNP, "+0.83"),
    Question("the same, gated form", "p-adapter", "p-adapter-p2"),
    Question("does the pull to the query help at p = 2?", APPNP, NO_PULL),
    Question("do query nodes help over zeros?", PAPER, ZEROS, "+0.35"),
    Question("do query nodes help over noise?", PAPER, NOISE, "+0.55"),
    Question("do degrees matter?", PAPER, NO_DEGREES),
    Question("p-adapter (paper's form) over LoRA", PAPER, "lora"),
)


def difference(root: Path, records: Sequence[Record], task: str, question: Question) -> tuple[float, Interval]:
    """Mean difference of the task's main measure on test ``records`` over the seeds of both, and its interval.

    root: the folder of the task's runs.
    """
    values = [_scores(root, records, task, label) for label in (question.of, question.than)]
    seeds = min(map(len, values))
    gained = values[0][:seeds] - values[1][:seeds]
    return float(gained.mean()), interval_of(drawn(gained))


def _scores(root: Path, records: Sequence[Record], task: str, label: str) -> torch.Tensor:
    """[seeds, records]."""
    folder = place(root, label)
    rows = []
    for cell in TuningResults.load(folder).of(label):
        said = predictions_of(folder, label, cell.seed)
        rows.append(TASK_CLASSES[task].scores(records, [said[record.id] for record in records]))
    return torch.tensor(rows)


def directions_table(root: Path, tested: Mapping[str, Sequence[Record]]) -> Table:
    """The differences of ``QUESTIONS`` on the test records ``tested`` of each task; runs lie below ``root``."""
    rows = []
    for question in QUESTIONS:
        cells = []
        for task, records in tested.items():
            mean, interval = difference(root / task, records, task, question)
            clear = "**" if interval.low > 0 or interval.high < 0 else ""
            cells.append(f"{clear}{100 * mean:+.1f} {interval}{clear}")
        rows.append([question.asks, *cells, question.paper or "-"])
    return Table(
        title="Differences on test records, in points (captions: CIDEr x 100)",
        header=["question", *tested, "paper"],
        rows=rows,
        notes=[
            "[low, high]: bootstrap over test records and seeds, 95 %, of the very records both answered; in bold "
            f"where it leaves out 0, as it would by chance in one of 20 of these {len(QUESTIONS) * len(tested)}.",
            "paper: differences that arXiv 2312.10613 reports, of means over VQA2.0, SNLI-VE and COCO with BLIP; not "
            "ours, and on other models and data.",
        ],
    )
