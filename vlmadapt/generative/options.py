"""The options of tuning (:mod:`vlmadapt.options`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.options import OptionSet, says

if TYPE_CHECKING:
    from vlmadapt.generative.data.records import RecordSet
    from vlmadapt.generative.models.base import GenerativeModel
    from vlmadapt.generative.results import TuningResults

SMALL = "small-blip"


@dataclass(frozen=True, kw_only=True)
class TuneOptions(OptionSet):
    task: str = field(metadata=says("caption, vqa or entailment.", type=str))
    methods: Sequence[str] = field(
        default=("p-adapter",),
        metadata=says(
            "Methods, by commas: frozen, full, bitfit, bottleneck, prefix, lora, rslora, p-adapter, p-adapter-p2, "
            "p-adapter-released, p-adapter-paper; settings follow colons: p-adapter:p=1.5:lr=0.001.",
            flag="--method",
            commas="names",
        ),
    )
    data: str | Path | RecordSet = field(
        default="easy-vqa",
        metadata=says(
            "A .jsonl file of your own, easy-vqa, or with --root: karpathy, textcaps, vqa2, vizwiz, snli-ve."
        ),
    )
    root: Path | None = field(
        default=None,
        metadata=says(
            "Folder of a published set's files and pictures, or that paths of your file count from.", type=Path
        ),
    )
    model: str | GenerativeModel = field(
        default=SMALL,
        metadata=says(
            "small-blip (trained from scratch on first use, some minutes), or a name of vlmadapt.load_generative, "
            "such as blip:FOLDER or llava:FOLDER."
        ),
    )
    seeds: int = field(default=1, metadata=says("How many seeds, from 0.", least=1))
    epochs: int = field(default=10, metadata=says("Passes over the training records.", least=0))
    batch_size: int = field(default=64, metadata=says("Records a step.", least=1))
    lr: float | None = field(
        default=None, metadata=says("Peak learning rate of every method.", type=float, shown="each method's own")
    )
    train_limit: int | None = field(default=None, metadata=says("Most training records, drawn by seed.", type=int))
    val_limit: int | None = field(default=None, metadata=says("Most validation records.", type=int))
    test_limit: int | None = field(default=None, metadata=says("Most test records.", type=int))
    settings: Mapping[str, Any] | None = field(
        default=None,
        metadata=says(
            "An option of the task: prompt, beams, answering, ...", flag="--set", type=list[str], metavar="KEY=VALUE"
        ),
    )
    out: Path | None = field(
        default=None, metadata=says("Folder of the results.", type=Path, shown="runs/tune-DATA-TASK")
    )
    overwrite: bool = field(default=False, metadata=says("Replace the results of another run in the folder."))
    device: str = field(default="auto", metadata=says("cpu, cuda, cuda:1, ... or auto."))
    download: bool = field(default=False, metadata=says("Allow fetching the model's weights."))
    report: Callable[[str], None] | None = field(
        default=None, metadata=says("Called with a line about the data and after each fit.", python=True)
    )
    progress: bool = field(default=False, metadata=says("Show bars while it works.", python=True))
    finish: Callable[[TuningResults, RecordSet, Path], None] | None = field(
        default=None,
        metadata=says(
            "Called at the end with the results, their records and the folder, to write what else belongs there.",
            python=True,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(OptionSet):
    question: Sequence[str] | None = field(
        default=None, metadata=says("What is asked of each picture; repeatable.", type=list[str])
    )
    hypothesis: Sequence[str] | None = field(
        default=None, metadata=says("What may be true of each picture; repeatable.", type=list[str])
    )
    method: str | None = field(
        default=None, metadata=says("Method of the run.", type=str, shown="the best on validation")
    )
    seed: int | None = field(default=None, metadata=says("Seed of its fit.", type=int, shown="the best on validation"))
    model: str | None = field(
        default=None, metadata=says("The model that was tuned, by name.", type=str, shown="the one the run names")
    )
    device: str = field(default="auto", metadata=says("cpu, cuda, cuda:1, ... or auto."))
    download: bool = field(default=False, metadata=says("Allow fetching the model's weights."))
    as_json: bool = field(default=False, metadata=says("Print a JSON object a line.", flag="--json"))
