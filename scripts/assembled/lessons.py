"""What the projector of the assembled model learns from: pictures with a question and an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from assembled.pictures import Drawings, emoji_features, features_of
from embedded.emoji import install, read_pairs
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch import Tensor

from vlmadapt.backbones.towers import ImageTower
from vlmadapt.generative.data import easy_vqa
from vlmadapt.generative.data.records import Record
from vlmadapt.generative.data.shapes import Facts
from vlmadapt.generative.lessons import evened, short_captions

UNSEEN_NAMES = 0.08  # of the emoji, kept back
PICTURES = 1500  # of easy-VQA that train; the language model is asked about each twice or so
WHAT = "what is it?"


@dataclass(frozen=True)
class Example:
    """``features`` [5, 1280]; the empty question asks for a caption."""

    features: Tensor
    question: str
    answer: str


@dataclass(frozen=True)
class Shapes:
    """Pictures of easy-VQA: ``features`` [n, 5, 1280], what is in them and what is asked about them."""

    features: Tensor
    facts: list[Facts]
    records: list[list[Record]]


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

    def example(self) -> Example:
        """A caption, a name, or whether it is a name: yes and no as often."""
        picture, name = self.draw()
        way = below(4)
        if way < 2:
            return Example(picture, "", f"a {self.kind} of {with_article(name)}")
        if way == 2:
            return Example(picture, WHAT, name)
        asked = name if below(2) else self.names[int(self.present[below(len(self.rows))])]
        return Example(picture, f"is it {with_article(asked)}?", "yes" if asked == name else "no")


@dataclass(frozen=True)
class Lessons:
    """``drawings``, ``unseen`` (those whose names are kept back), ``photos`` (rows of the tower's classifier in their
    place) and ``shapes``; ``licences`` of the emoji sets."""

    drawings: Named
    unseen: Named
    photos: Named
    shapes: Shapes
    licences: dict[str, dict[str, str]]

    def example(self) -> Example:
        """Half of them shapes, a third emoji, a sixth photos."""
        way = below(6)
        return shape_example(self.shapes) if way < 3 else self.photos.example() if way == 3 else self.drawings.example()

    def draw_named(self) -> tuple[Tensor, str]:
        """For the alignment of the projector with words."""
        way = below(6)
        if way == 0:
            row = below(len(self.shapes.facts))
            facts = self.shapes.facts[row]
            return self.shapes.features[row].float(), f"{facts.colour} {facts.shape}"
        return self.photos.draw() if way < 3 else self.drawings.draw()


def shape_example(shapes: Shapes) -> Example:
    """A short caption or a question, each of its kinds as often, yes and no as often."""
    row = below(len(shapes.facts))
    picture, facts = shapes.features[row].float(), shapes.facts[row]
    if below(3) == 0 or not shapes.records[row]:
        texts = short_captions(facts)
        return Example(picture, "", texts[below(len(texts))])
    kinds = sorted({record.kind for record in shapes.records[row]})
    kind = kinds[below(len(kinds))]
    asked = [record for record in shapes.records[row] if record.kind == kind]
    record = evened(asked[below(len(asked))], facts)
    return Example(picture, record.prompt, record.answers[0][0])


def read_lessons(work: Path, seed: int) -> Lessons:
    """Everything, fetched and computed once into ``work``."""
    install(work)
    pairs, licences = read_pairs(work)
    emoji = emoji_features(pairs, work)
    kept_back = (torch.rand(len(emoji.names), generator=torch.Generator().manual_seed(seed)) < UNSEEN_NAMES)[
        emoji.label
    ]
    seen, unseen = (_named(emoji, chosen) for chosen in (~kept_back, kept_back))
    shapes = read_shapes("pretrain", PICTURES, work)
    return Lessons(seen, unseen, prototypes(emoji.features), shapes, licences)


def _named(emoji: Drawings, chosen: Tensor) -> Named:
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
