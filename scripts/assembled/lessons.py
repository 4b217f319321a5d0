"""What the projector of the assembled model learns from: pictures with a question and an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from assembled.packing import Example, Pictured
from assembled.pictures import Drawings, emoji_features, features_of
from embedded.emoji import install, read_pairs
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch import Tensor

from vlmadapt.backbones.towers import ImageTower
from vlmadapt.generative.data import easy_vqa
from vlmadapt.generative.data.records import Record
from vlmadapt.generative.data.shapes import Facts
from vlmadapt.generative.lessons import evened, short_captions
from vlmadapt.generative.models.assembled import CAPTION

UNSEEN_NAMES = 0.08  # of the emoji, kept back
PICTURES = 2600  # of easy-VQA
HELD_BACK = 200  # of these, and of the drawings' names, on which settings are compared
WHAT = "what is it?"


@dataclass(frozen=True)
class Shapes:
    """Pictures of easy-VQA: ``features`` [n, 5, 1280], what is in them and what is asked about them."""

    features: Tensor
    facts: list[Facts]
    records: list[list[Record]]

    def __getitem__(self, part: slice) -> Shapes:
        return Shapes(self.features[part], self.facts[part], self.records[part])

    def pictured(self) -> Pictured:
        """A short caption and three questions, each of its kinds as often, yes and no as often."""
        row = below(len(self.facts))
        texts = short_captions(self.facts[row])[:2]
        examples = [Example(CAPTION, texts[below(len(texts))], "shape caption")]
        asked = list(self.records[row])
        for _ in range(min(3, len(asked))):
            kinds = sorted({record.kind for record in asked})
            kind = kinds[below(len(kinds))]
            same = [record for record in asked if record.kind == kind]
            record = same[below(len(same))]
            asked.remove(record)
            record = evened(record, self.facts[row])
            examples.append(Example(record.prompt, record.answers[0][0], kind))
        return Pictured(self.features[row].float(), examples)


class Named:
    """Pictures of named things: ``features`` [n, 5, 1280]; ``kind`` is what a caption calls them."""

    def __init__(self, features: Tensor, label: Tensor, names: Sequence[str], kind: str) -> None:
        self.features, self.names, self.kind = features, names, kind
        order = torch.argsort(label, stable=True)
        self.present, counts = torch.unique_consecutive(label[order], return_counts=True)
        self.rows = list(order.split(counts.tolist()))

    def draw(self) -> tuple[Tensor, str]:
        """A picture of a random name, and the name."""
        place = below(len(self.rows))
        rows = self.rows[place]
        return self.features[int(rows[below(len(rows))])].float(), self.names[int(self.present[place])]

    def pictured(self) -> Pictured:
        """A caption and the name."""
        picture, name = self.draw()
        examples = [
            Example(CAPTION, f"a {self.kind} of {with_article(name)}", f"{self.kind} caption"),
            Example(WHAT, name, f"{self.kind} name"),
        ]
        return Pictured(picture, examples)


@dataclass(frozen=True)
class Lessons:
    """``drawings``, ``photos`` (rows of the tower's classifier in their place) and ``shapes`` to learn from."""

    drawings: Named
    photos: Named
    shapes: Shapes

    def pictured(self) -> Pictured:
        """Half of them shapes, a third emoji, a sixth photos."""
        way = below(6)
        return self.shapes.pictured() if way < 3 else self.photos.pictured() if way == 3 else self.drawings.pictured()

    def draw_named(self) -> tuple[Tensor, str]:
        """For the alignment of the projector with words."""
        way = below(6)
        if way == 0:
            row = below(len(self.shapes.facts))
            facts = self.shapes.facts[row]
            return self.shapes.features[row].float(), f"{facts.colour} {facts.shape}"
        return self.photos.draw() if way < 3 else self.drawings.draw()


@dataclass(frozen=True)
class Data:
    """To learn from, to compare settings on, and drawings whose ``unseen`` names are kept for the report."""

    train: Lessons
    held_back: Lessons
    unseen: Named
    licences: dict[str, dict[str, str]]


def read_data(work: Path, seed: int) -> Data:
    """Everything, fetched and computed once into ``work``."""
    install(work)
    pairs, licences = read_pairs(work)
    emoji = emoji_features(pairs, work)
    generator = torch.Generator().manual_seed(seed)
    unseen = torch.rand(len(emoji.names), generator=generator) < UNSEEN_NAMES
    held_back = ~unseen & (torch.rand(len(emoji.names), generator=generator) < HELD_BACK / len(emoji.names))
    photos = prototypes(emoji.features)
    shapes = read_shapes("pretrain", PICTURES, work)
    return Data(
        Lessons(_named(emoji, ~unseen & ~held_back), photos, shapes[HELD_BACK:]),
        Lessons(_named(emoji, held_back), photos, shapes[:HELD_BACK]),
        _named(emoji, unseen),
        licences,
    )


def _named(emoji: Drawings, names: Tensor) -> Named:
    chosen = names[emoji.label]
    return Named(emoji.features[chosen], emoji.label[chosen], emoji.names, "drawing")


def read_shapes(part: str, number: int, work: Path) -> Shapes:
    """The first ``number`` pictures of a part of easy-VQA, and questions of the kinds that the small BLIP learns."""
    paths = easy_vqa.pictures(part)[:number]
    grouped: dict[Path, list[Record]] = {path: [] for path in paths}
    for record in easy_vqa.questions(part, easy_vqa.SEEN):
        if record.image in grouped:
            grouped[record.image].append(record)
    features = features_of(paths, f"easy-vqa-{part}", work)
    return Shapes(features, [easy_vqa.facts_of(path) for path in paths], list(grouped.values()))


def prototypes(emoji: Tensor) -> Named:
    """A row of the image tower's classifier, as far from the mean as pictures are, stands for a photo of its class."""
    mean, _ = mean_and_spread(emoji)
    rows = torch.nn.functional.normalize(ImageTower().net.classifier.weight.detach(), dim=-1)
    length = (emoji[:, 0].float() - mean).norm(dim=-1).mean()
    features = (mean + length * rows)[:, None].expand(-1, emoji.shape[1], -1)
    return Named(features, torch.arange(len(rows)), IMAGENET_CLASSNAMES, "photo")


def mean_and_spread(features: Tensor) -> tuple[Tensor, Tensor]:
    """[1280] and one number, of the whole pictures among ``features`` [n, 5, 1280]."""
    whole = features[:, 0].float()
    mean = whole.mean(0)
    return mean, (whole - mean).std()


def with_article(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def below(number: int) -> int:
    """A random number from 0, by torch's global generator."""
    return int(torch.randint(number, ()))
