"""What the small BLIP from scratch learns from, and how it is examined: :mod:`vlmadapt.generative.scratch`. Ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmadapt.generative.data import easy_vqa
from vlmadapt.generative.data.records import Record
from vlmadapt.generative.data.shapes import COLOURS, SHAPES, SIZES, Facts, cover, measure, read_picture
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.load import task_model
from vlmadapt.generative.models.small import MEAN, STD, SmallBlipConfig, WordTokenizer, split_words
from vlmadapt.generative.models.text import IGNORED, Targets
from vlmadapt.generative.models.view import Answerer, Captioner
from vlmadapt.generative.tasks.base import token_losses

FORMAT = 3  # raised when the recipe changes, so that old models are not taken for new ones
HELD_BACK = 150  # pictures on which epochs are compared
COVERED_SHARE = 0.15
ATTRIBUTES: dict[str, list[str]] = {
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "size": list(SIZES),
    "place": [f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "center", "right")],
}


@dataclass(frozen=True)
class ScratchConfig:
    """How the small model is trained; ``model`` says what it is."""

    model: SmallBlipConfig = field(default_factory=SmallBlipConfig)
    tower_epochs: int = 16  # first the image tower alone, from attributes: it learns them sooner than from words
    tower_lr: float = 3e-3
    epochs: int = 32  # then the words, the tower frozen: to check a colour it is asked about comes last
    batch_size: int = 32  # pictures
    asked: int = 4  # questions a picture and step, so that the image tower runs once for all of them
    lr: float = 1e-3
    weight_decay: float = 0.05
    pictures: int = easy_vqa.PRETRAIN
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:12]


def vocabulary() -> set[str]:
    """Every word of easy-VQA's questions and of our captions and statements."""
    texts = ["yes no maybe", *COLOURS, *SHAPES, *SIZES]
    for record in easy_vqa.questions("pretrain", easy_vqa.SEEN + easy_vqa.HELD_OUT):
        texts += [record.prompt, record.answers[0][0], easy_vqa.statement_of(record.prompt) or ""]
    corners = [(0, 0, 9, 9), (28, 28, 37, 37), (55, 55, 64, 64)]
    for box in corners:
        texts += easy_vqa.captions_of(Facts("blue", "circle", box))
    return {word for text in texts for word in split_words(text)}


def short_captions(facts: Facts) -> list[str]:
    """What the small model learns to say: half of what a whole caption holds."""
    halves = (f"a {facts.colour} {facts.shape}", f"a {facts.size} shape at the {facts.place}")
    return [f"{opening}{half}" for opening in ("", "there is ", "the image shows ") for half in halves]


class Lessons:
    """Examples, their augmentation, the loss and the score."""

    def __init__(self, vqa: nn.Module, caption: nn.Module, tokenizer: WordTokenizer, config: ScratchConfig) -> None:
        def view(model: nn.Module) -> Any:
            side = config.model.image_size
            return task_model(GenerativeModel("small", model, tokenizer, to_pixels, (side, side)))

        self.answerer: Answerer = view(vqa)
        self.captioner: Captioner = view(caption)
        # Only while training, and zero at first: nothing is drawn for it.
        self.attributes = nn.Linear(config.model.width, sum(map(len, ATTRIBUTES.values())))
        nn.init.zeros_(self.attributes.weight)
        nn.init.zeros_(self.attributes.bias)
        chosen = easy_vqa.pictures("pretrain")[: config.pictures]
        self.pictures = {path: read_picture(path) for path in chosen}
        self.facts = {path: measure(picture, path) for path, picture in self.pictures.items()}
        held_back = set(chosen[: min(HELD_BACK, len(chosen) // 4)])
        asked = [record for record in easy_vqa.questions("pretrain", easy_vqa.SEEN) if record.image in self.pictures]
        grouped: dict[Path, list[Record]] = {}
        for record in asked:
            if record.image not in held_back:
                grouped.setdefault(record.image, []).append(record)
        self.asked = config.asked
        self.train = list(grouped.values())
        self.held_back = [record for record in asked if record.image in held_back]

    def loss(self, indices: Tensor) -> Tensor:
        """Over pictures: a caption and ``asked`` questions about each."""
        drawn = [self._augmented(self.train[index]) for index in indices.tolist()]
        with torch.no_grad():
            features = self.answerer.features(torch.stack([to_pixels(picture) for picture, *_ in drawn]))
        records = [record for *_, chosen in drawn for record in chosen]
        answers, labels = self._answers(features.repeat_interleave(self.asked, 0), records)
        texts = [_one_of(short_captions(facts)) if facts else "" for _, facts, _ in drawn]
        targets = self._caption_targets(texts)
        said = token_losses(self.captioner.caption_logits(features, targets), targets)
        return answers.sum() / len(labels.inputs) + said.sum() / (targets.labels != IGNORED).sum()

    def tower_loss(self, indices: Tensor) -> Tensor:
        """Over pictures: their attributes only."""
        drawn = [self._augmented(self.train[index])[:2] for index in indices.tolist()]
        features = self.answerer.features(torch.stack([to_pixels(picture) for picture, _ in drawn]))
        return sum(self._attribute_losses(features, [facts for _, facts in drawn]), features.new_zeros(()))

    def tower_score(self) -> tuple[float, ...]:
        """Minus the attribute losses on pictures held back."""
        paths = list(dict.fromkeys(record.image for record in self.held_back))
        features = self.answerer.features(torch.stack([to_pixels(self.pictures[path]) for path in paths]))
        return (-float(sum(self._attribute_losses(features, [self.facts[path] for path in paths]))),)

    def _attribute_losses(self, features: Tensor, facts: Sequence[Facts | None]) -> Iterator[Tensor]:
        """Cross-entropies of colour, shape, size and place, from the mean of the tower's tokens."""
        rows = [row for row, each in enumerate(facts) if each is not None]
        if not rows:
            return
        parts = self.attributes(features[rows].mean(1)).split([*map(len, ATTRIBUTES.values())], 1)
        for (name, values), logits in zip(ATTRIBUTES.items(), parts, strict=True):
            wanted = [values.index(getattr(facts[row], name)) for row in rows]
            yield nn.functional.cross_entropy(logits, torch.tensor(wanted))

    def _augmented(self, about: Sequence[Record]) -> tuple[np.ndarray, Facts | None, list[Record]]:
        """A moved, perhaps mirrored, perhaps covered picture with questions; no facts where covered, for a caption
        would have nothing to say."""
        records = [about[_between(0, len(about) - 1)] for _ in range(self.asked)]
        picture, facts = _moved(self.pictures[about[0].image], self.facts[about[0].image])
        if _between(0, 1):
            picture, facts = picture[:, ::-1], facts.mirrored()
        if float(torch.rand(())) >= COVERED_SHARE:
            return picture, facts, [evened(record, facts) for record in records]
        hidden = cover(picture, facts, str(_between(0, 2**31 - 2)))
        return hidden, None, [replace(record, answers=(("maybe", 1),)) for record in records]

    def _answers(self, features: Tensor, records: Sequence[Record]) -> tuple[Tensor, Targets]:
        states, mask = self.answerer.read(features, [record.prompt for record in records])
        targets = self.answerer.targets([record.answers[0][0] for record in records])
        return token_losses(self.answerer.answer_logits(states, mask, targets), targets), targets

    def _caption_targets(self, texts: Sequence[str]) -> Targets:
        targets = self.captioner.targets(texts)
        silent = torch.tensor([not text for text in texts])
        targets.labels[silent] = IGNORED
        return targets

    def score(self) -> tuple[float, ...]:
        """Minus the mean losses on pictures held back, answers and captions added."""
        total = 0.0
        generator = torch.Generator().manual_seed(0)
        for start in range(0, len(self.held_back), 128):
            records = self.held_back[start : start + 128]
            features = self.answerer.features(torch.stack([to_pixels(self.pictures[r.image]) for r in records]))
            answers, _ = self._answers(features, records)
            options = [short_captions(self.facts[record.image]) for record in records]
            texts = [each[int(torch.randint(len(each), (), generator=generator))] for each in options]
            targets = self._caption_targets(texts)
            said = token_losses(self.captioner.caption_logits(features, targets), targets)
            total += float(answers.sum() + said.sum())
        return (-total / max(len(self.held_back), 1),)


def _moved(picture: np.ndarray, facts: Facts) -> tuple[np.ndarray, Facts]:
    """The shape somewhere else on its plain background."""
    left, top, right, bottom = facts.box
    across = _between(-max(left - 1, 0), max(facts.side - right - 1, 0))
    down = _between(-max(top - 1, 0), max(facts.side - bottom - 1, 0))
    box = (left + across, top + down, right + across, bottom + down)
    return np.roll(picture, (down, across), axis=(0, 1)), replace(facts, box=box)


def evened(record: Record, facts: Facts) -> Record:
    """A yes/no question asks for what is there every other time; as published, seven answers of ten are no, and the
    model would learn no more than that."""
    if record.answers[0][0] not in ("yes", "no"):
        return record
    colours = record.kind.endswith("colour")
    things = [f"{colour} shape" for colour in COLOURS] if colours else list(SHAPES)
    there = f"{facts.colour} shape" if colours else facts.shape
    [asked] = [thing for thing in things if thing in record.prompt]
    answer = ("no", "yes")[_between(0, 1)]
    thing = there if answer == "yes" else _one_of([other for other in things if other != there])
    return replace(record, prompt=record.prompt.replace(asked, thing), answers=((answer, 1),))


def _between(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))


def _one_of(texts: Sequence[str]) -> str:
    return texts[int(torch.randint(len(texts), ()))]


def to_pixels(picture: Any) -> Tensor:
    """uint8 [H, W, 3] to float32 [3, H, W]: what the saved preprocessing says too."""
    return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 - MEAN) / STD
