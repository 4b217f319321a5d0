"""A tuned model on new pictures: what ``vlmadapt tune`` left in its folder, loaded and asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from vlmadapt.errors import FileError, InputError, shown
from vlmadapt.files import read_versioned, write_versioned
from vlmadapt.generative.data.records import Record, RecordSet, TaskName
from vlmadapt.generative.methods.registry import attach
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.load import task_model
from vlmadapt.generative.plan import TuningPlan, check_plan
from vlmadapt.generative.results import TuningResults
from vlmadapt.generative.scratch import named_model
from vlmadapt.generative.tasks import TASK_CLASSES, Pictures, Task, TaskOptions
from vlmadapt.generative.tuning import ADAPTER, fit_folder
from vlmadapt.modes import usual
from vlmadapt.pictures import read

if TYPE_CHECKING:
    from vlmadapt.generative.methods.attached import Attached

TUNED = "tuned.json"  # beside results.json
FORMAT = 1
AGAIN = "run vlmadapt tune again"
ASKED = {"caption": "nothing", "vqa": "a question", "entailment": "a hypothesis"}


def save_tuned(folder: Path, model: str | None, sets: dict[int, RecordSet]) -> None:
    """Note what ``results.json`` does not say: the model by name, None for one that had none, and the answers that a
    model may choose from after each seed's training, with how often people gave them."""
    answers: dict[str, list[list[Any]]] = {}
    for seed, records in sets.items():
        counts: dict[str, int] = {}
        for record in records.train:
            for answer, count in record.answers:
                counts[answer] = counts.get(answer, 0) + count
        answers[str(seed)] = [[answer, count] for answer, count in counts.items()]
    write_versioned(folder / TUNED, {"model": model, "answers": answers}, FORMAT)


def place_of(name: str) -> str:
    """The name of a model with its file or folder absolute, so that it means the same later."""
    family, _, place = name.partition(":")
    before, at, file = place.rpartition("@")
    path = Path(file).expanduser()
    return f"{family}:{before}{at}{path.resolve()}" if place and path.exists() else name


@dataclass
class Tuned:
    """A model with the adapter of one fit attached, and its task; :meth:`close` gives the model back."""

    task: Task
    attached: Attached
    method: str
    seed: int
    _held: dict[Path, Image.Image]

    @classmethod
    @usual(grad=True)
    def load(
        cls,
        folder: str | Path,
        model: GenerativeModel | str | None = None,
        method: str | None = None,
        seed: int | None = None,
        device: str | torch.device = "cpu",
        download: bool = False,
    ) -> Tuned:
        """The fit of ``method`` and ``seed`` in a folder that ``vlmadapt tune`` wrote; by default the method and seed
        that were best on validation.

        model: what was tuned, loaded or by name, where the folder does not name it.
        Raises :class:`FileError` for a folder without such a run, :class:`InputError` for a method or seed that is not
        in it, and for a model of other weights.
        """
        folder = Path(folder)
        if not (folder / "results.json").is_file():
            raise FileError(f"{shown(folder)} holds no results of a tuned model: make them with vlmadapt tune.")
        results = TuningResults.load(folder)
        noted = _noted(folder)
        label, number = _chosen(results, method, seed)
        loaded: Any = model
        if not isinstance(model, GenerativeModel):
            loaded = _opened(folder, model or noted["model"], results.task, device, download)
        view = task_model(loaded)
        if view.fingerprint() != results.model["fingerprint"]:
            raise InputError(
                f"{shown(folder)} was tuned from {results.model['name']}, and {loaded.name} has other weights: give "
                "the model that was tuned."
            )
        options = TaskOptions.make(results.protocol["options"])
        data = _unseen(results.task, noted["answers"].get(str(number)) or [])  # type: ignore[arg-type]
        job = check_plan(TuningPlan((label,), (number,)), data)[0]
        held: dict[Path, Image.Image] = {}
        height, width = loaded.image_size
        nothing = Image.new("RGB", (width, height), (127, 127, 127))
        pictures = Pictures(view, read=lambda path: nothing if job.blind else held[path], budget_mib=0)
        attached = attach(view.module, job.method.adapter, job.config, number)
        try:
            attached.load(fit_folder(folder / "fits", label, number) / ADAPTER)
            return cls(TASK_CLASSES[results.task](view, data, options, pictures), attached, label, number, held)
        except BaseException:
            attached.detach()
            raise

    @property
    def asks_for(self) -> str:
        """What goes with a picture: nothing, a question or a hypothesis."""
        return ASKED[self.task.data.task]

    @usual()
    def answer(self, pictures: Any, prompts: str | Sequence[str] = "") -> list[str]:
        """A text for each picture: a caption, an answer, or entailment, neutral or contradiction.

        pictures: paths or PIL pictures, one or several. prompts: the question or hypothesis of each, or one of all.
        Raises :class:`FileError` naming a picture that cannot be read, :class:`InputError` for prompts that are
        missing, too many, or of a run that takes none.
        """
        listed = [pictures] if isinstance(pictures, (str, Path, Image.Image)) else list(pictures)
        asked = [prompts] * len(listed) if isinstance(prompts, str) else list(prompts)
        self._check(listed, asked)
        records = []
        try:
            for place, (picture, prompt) in enumerate(zip(listed, asked, strict=True)):
                name = Path(f"picture {place}")
                self._held[name] = read(picture, f"pictures[{place}]")
                records.append(Record(str(place), name, "test", prompt=" ".join(prompt.split())))
            return self.task.predict(records)
        finally:
            self._held.clear()

    def _check(self, pictures: Sequence[Any], prompts: Sequence[Any]) -> None:
        if len(prompts) != len(pictures):
            raise InputError(
                f"prompts has {len(prompts)} texts for {len(pictures)} pictures: give one each, or one of all."
            )
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise InputError(f"prompts holds a {type(prompt).__name__}: give texts.")
            if bool(prompt.strip()) != (self.task.data.task != "caption"):
                what = f"{prompt!r} is asked" if prompt.strip() else "nothing is asked"
                raise InputError(f"{what}, but this model was tuned for {self.task.data.task}: give {self.asks_for}.")

    def close(self) -> None:
        """Detach the adapter: the model is what it was."""
        self.attached.detach()


def _noted(folder: Path) -> dict[str, Any]:
    if not (folder / TUNED).is_file():
        return {"model": None, "answers": {}}  # of a run before such a file was written
    found = read_versioned(folder / TUNED, FORMAT, AGAIN)
    answers = found.get("answers")
    whole = isinstance(found.get("model"), (str, type(None))) and isinstance(answers, dict)
    if not whole or not all(_are_answers(each) for each in answers.values()):  # type: ignore[union-attr]
        raise FileError(f"{shown(folder / TUNED)} does not say what was tuned: {AGAIN}.")
    return found


def _are_answers(value: Any) -> bool:
    """Whether these are pairs of an answer and how many gave it."""
    pairs = value if isinstance(value, list) else [None]
    kinds = [[type(part) for part in pair] if isinstance(pair, list) else None for pair in pairs]
    return all(kind == [str, int] for kind in kinds)


def _opened(folder: Path, name: str | None, task: str, device: Any, download: bool) -> GenerativeModel:
    if name is None:
        raise InputError(f"model is missing: {shown(folder)} does not name what was tuned, so give it (--model).")
    return named_model(name, task, device, download)


def _chosen(results: TuningResults, method: str | None, seed: int | None) -> tuple[str, int]:
    """The fit asked for, by default that of the largest validation measure."""
    cells = [cell for cell in results.cells if method in (None, cell.method) and seed in (None, cell.seed)]
    if not cells:
        there = ", ".join(dict.fromkeys(f"{cell.method} at seed {cell.seed}" for cell in results.cells))
        raise InputError(f"method is {method!r} and seed {seed}, which is not among the fits: use {there}.")
    best = max(cells, key=lambda cell: cell.validation)
    return best.method, best.seed


def _unseen(task: TaskName, answers: Sequence[Sequence[Any]]) -> RecordSet:
    """Records that stand for those of the run: the answers that it chooses from are all that is needed of them."""
    if task == "vqa" and not answers:
        answers = [["yes", 1]]
    said = tuple((str(answer), int(count)) for answer, count in answers)

    def records(split: str) -> tuple[Record, ...]:
        made = [Record(f"{split}{i}", Path(f"{split}{i}"), split, "?", ("a",), said, "neutral") for i in range(2)]
        return tuple(made)

    parts = records("train"), records("val"), records("test")
    return RecordSet("a tuned model", task, Path(), *parts, check_files=False)
