"""What a task is to the training loop: a loss over records, predictions, and measures of a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmadapt.errors import InputError
from vlmadapt.generative.data.records import Record, RecordSet
from vlmadapt.generative.models.text import IGNORED, Targets
from vlmadapt.generative.models.view import Answerer, TaskModel, as_answerer
from vlmadapt.generative.tasks.pictures import Pictures
from vlmadapt.progress import track
from vlmadapt.training import check_range


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options of the three tasks; each task reads its own. Raises :class:`InputError` for a value out of range."""

    prompt: str = field(
        default="", metadata={"help": "caption: words every caption starts with, such as 'a picture of'"}
    )
    label_smoothing: float = field(
        default=0.1, metadata={"help": "caption: share of each target spread over all words"}
    )
    beams: int = field(default=3, metadata={"help": "caption, generated answers: beams of the search at test time"})
    longest: int = field(default=24, metadata={"help": "most new tokens of a caption or generated answer"})
    answering: str = field(default="rank", metadata={"help": "vqa: rank the training answers, or generate"})
    candidates: int = field(
        default=3129, metadata={"help": "vqa: how many of the most frequent training answers to rank"}
    )
    ranked: int = field(
        default=128, metadata={"help": "vqa: candidates kept by their first token before the whole is read"}
    )
    batch: int = field(default=128, metadata={"help": "records a step of evaluation"})

    def __post_init__(self) -> None:
        check_range(self, "label_smoothing", low=0.0, high=1.0)
        for name in ("beams", "longest", "candidates", "ranked", "batch"):
            check_range(self, name, low=1)
        if not isinstance(self.prompt, str):
            raise InputError(f"TaskOptions.prompt is {self.prompt!r}: give words, or --set 'prompt=\"{self.prompt}\"'.")
        if self.answering not in ("rank", "generate"):
            raise InputError(f"TaskOptions.answering is {self.answering!r}: use rank or generate.")

    def as_dict(self) -> dict[str, Any]:
        """Every option by name."""
        return asdict(self)

    @classmethod
    def make(cls, settings: Mapping[str, Any]) -> TaskOptions:
        """Raises :class:`InputError` for a name that is no option."""
        known = [entry.name for entry in fields(cls)]
        for name in settings:
            if name not in known:
                raise InputError(f"{name!r} is no option of a task: use {', '.join(known)}.")
        return cls(**settings)


class Task(ABC):
    """One task on one model and one set of records.

    ``metric`` names the measure that chooses epochs; :meth:`measure` may give more. Pictures are shared by all methods
    tried on the same model object. Raises :class:`InputError` for a model or data that do not serve the task.
    """

    metric: str

    def __init__(
        self, model: TaskModel, data: RecordSet, options: TaskOptions | None = None, pictures: Pictures | None = None
    ) -> None:
        self.model, self.data = model, data
        self.options = options or TaskOptions()
        self.pictures = pictures or Pictures(model)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise :class:`InputError` where the model or the records do not serve the task."""

    def loss(self, indices: Tensor) -> Tensor:
        """Mean loss over ``data.train[i]`` for ``i`` in ``indices`` int64 [B]; random choices use torch's generator."""
        return self.loss_of([self.data.train[index] for index in indices.tolist()])

    @abstractmethod
    def loss_of(self, records: Sequence[Record]) -> Tensor:
        """Mean loss over ``records``."""

    @abstractmethod
    def predict_batch(self, records: Sequence[Record], beams: int) -> list[str]:
        """One text a record."""

    @abstractmethod
    def measure(self, records: Sequence[Record], predictions: Sequence[str]) -> dict[str, float]:
        """Measures of ``predictions``, ``metric`` among them; all are fractions, larger is better."""

    @staticmethod
    @abstractmethod
    def scores(records: Sequence[Record], predictions: Sequence[str]) -> list[float]:
        """``metric`` of each of ``records`` apart; their mean is that of :meth:`measure`."""

    @torch.no_grad()
    def predict(self, records: Sequence[Record], beams: int | None = None, progress: bool = False) -> list[str]:
        """One text a record, in order; ``beams`` defaults to the option of that name."""
        self.model.module.eval()
        said: list[str] = []
        starts = range(0, len(records), self.options.batch)
        for start in track(starts, "predict", enabled=progress):
            batch = records[start : start + self.options.batch]
            said += self.predict_batch(batch, self.options.beams if beams is None else beams)
        return said

    def score_validation(self) -> tuple[float, ...]:
        """What epochs are compared by: ``metric`` on the validation split, greedy where texts are generated."""
        measures = self.measure(self.data.val, self.predict(self.data.val, beams=1))
        return (measures[self.metric], *(value for name, value in measures.items() if name != self.metric))

    def features(self, records: Sequence[Record]) -> Tensor | list[Tensor]:
        """Picture features ``[n, tokens, width]`` of ``records``, as :class:`Pictures` gives them."""
        return self.pictures.features([record.image for record in records])


class AnsweringTask(Task):
    """A task on prompts that a model answers."""

    metric = "accuracy"

    def measure(self, records: Sequence[Record], predictions: Sequence[str]) -> dict[str, float]:
        scores = self.scores(records, predictions)
        return {"accuracy": sum(scores) / len(scores)}

    def check(self) -> None:
        """Raise :class:`InputError` for a model that answers nothing."""
        as_answerer(self.model)

    def read(self, records: Sequence[Record]) -> tuple[Answerer, Tensor, Tensor]:
        """The model, and what it has read of pictures and prompts: states [B, L, D] and their mask [B, L]."""
        model = as_answerer(self.model)
        return model, *model.read(self.features(records), [record.prompt for record in records])


def token_losses(logits: Tensor, targets: Targets, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each position, float32 [B, L]; 0 where the label is ``IGNORED``."""
    return F.cross_entropy(
        logits.float().transpose(1, 2),
        targets.labels,
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=smoothing,
    )
