"""What the assembled model says of pictures it has not seen, beside what it says without a picture.

*Blind* is the same model before the mean features of its training pictures; *prior* says the commonest right answer of
each kind of question, or the caption that scores best for all pictures. Intervals: bootstrap over pictures, 95 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from assembled.lessons import WHAT, Named, Shapes, below, read_shapes
from assembled.pictures import features_of
from torch import Tensor

from vlmadapt.data import load_dataset
from vlmadapt.errors import VlmadaptError
from vlmadapt.generative.lessons import evened, short_captions
from vlmadapt.generative.models.assembled import AssembledView
from vlmadapt.generative.tasks.answers import answer_accuracy
from vlmadapt.generative.tasks.base import token_losses
from vlmadapt.generative.tasks.caption_metrics import caption_scores
from vlmadapt.provenance.bootstrap import drawn, interval_of

PICTURES = 200  # of easy-VQA's test
OF_A_CLASS = 5  # of clip-art and photos, from their test splits
NAMES, AMONG = 200, 10  # pictures of emoji whose name was kept back, each among so many such names
LONGEST = 12
BATCH = 64


def report(view: AssembledView, unseen: Named, work: Path) -> dict[str, Any]:
    """Every table; a data set that is not installed is left out, aloud."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        shapes = read_shapes("test", PICTURES, work)
        results: dict[str, Any] = {"questions": questions(view, shapes), "captions": captions(view, shapes)}
        print(results, flush=True)
        results["unseen emoji"] = unseen_names(view, unseen)
        print(results["unseen emoji"], flush=True)
        for name in ("tuxphotos", "clipart"):
            try:
                results[name] = classes(view, name, work)
            except VlmadaptError as error:
                print(f"{name} is left out: {error}")
            else:
                print(name, results[name], flush=True)
    return results


def questions(view: AssembledView, shapes: Shapes) -> dict[str, Any]:
    """Generated answers: one question of each kind a picture, yes and no as often."""
    asked: dict[str, list[Any]] = {}
    for row in range(len(shapes.facts)):
        for record in shapes.records[row]:
            same = asked.setdefault(record.kind, [])
            if not same or same[-1][0] != row:
                same.append((row, evened(record, shapes.facts[row])))
    found = {}
    for kind, pairs in sorted(asked.items()):
        rows, records = [row for row, _ in pairs], [record for _, record in pairs]
        texts = [record.prompt for record in records]
        said = answers(view, shapes.features[rows], texts)
        asked_once = sorted(set(texts))
        unseen = dict(zip(asked_once, answers(view, blind_features(view, len(asked_once)), asked_once), strict=True))
        blind = [unseen[text] for text in texts]
        commonest = Counter(record.answers[0][0] for record in records).most_common(1)[0][0]
        right = [
            torch.tensor([answer_accuracy(text, record.answers) for text, record in zip(each, records, strict=True)])
            for each in (said, blind, [commonest] * len(records))
        ]
        found[kind] = table(*right)
    return found


def captions(view: AssembledView, shapes: Shapes) -> dict[str, Any]:
    """Of the test pictures: the share of captions that are wholly right, and CIDEr x 100."""
    references = [short_captions(facts) for facts in shapes.facts]
    said = describe(view, shapes.features)
    [blind] = describe(view, blind_features(view, 1))
    commonest = Counter(text for texts in references for text in texts).most_common(1)[0][0]
    texts = {"picture": said, "blind": [blind] * len(said), "prior": [commonest] * len(said)}
    right = [
        torch.tensor([float(text in wanted) for text, wanted in zip(each, references, strict=True)])
        for each in texts.values()
    ]
    cider = {name: round(100 * caption_scores(each, references)["cider"], 1) for name, each in texts.items()}
    return {"wholly right": table(*right), "CIDEr": cider, "blind caption": blind}


def unseen_names(view: AssembledView, unseen: Named) -> dict[str, Any]:
    """The likeliest of ``AMONG`` names, none of which training has seen, next to what is likely without a picture."""
    pictures, names = zip(*(unseen.draw() for _ in range(NAMES)), strict=True)
    others = [[unseen.names[int(row)] for row in unseen.present]] * NAMES
    choices = []
    for name, pool in zip(names, others, strict=True):
        rest = [other for other in pool if other != name]
        choices.append([name, *(rest.pop(below(len(rest))) for _ in range(AMONG - 1))])
    return _named(view, torch.stack(pictures), choices, list(names))


def classes(view: AssembledView, name: str, work: Path) -> dict[str, Any]:
    """The likeliest class name of pictures of a kind that training has not seen, and what their captions say."""
    dataset = load_dataset(name)
    chosen, taken = [], Counter[int]()
    for sample in dataset.test:
        taken[sample.label] += 1
        if taken[sample.label] <= OF_A_CLASS:
            chosen.append(sample)
    features = features_of([sample.path for sample in chosen], f"{name}-examined", work)
    names = [dataset.class_names[sample.label] for sample in chosen]
    found = _named(view, features, [list(dataset.class_names)] * len(chosen), names)
    said = describe(view, features)
    found["says the class"] = round(sum(n in text for n, text in zip(names, said, strict=True)) / len(said), 4)
    found["captions"] = [f"{n}: {text}" for n, text in list(zip(names, said, strict=True))[:: max(len(said) // 12, 1)]]
    return found


def _named(view: AssembledView, features: Tensor, choices: Sequence[list[str]], names: list[str]) -> dict[str, Any]:
    every = sorted({name for names in choices for name in names})
    lacking = dict(zip(every, -_losses(view, blind_features(view, 1), [every])[0], strict=True))
    seen = -_losses(view, features, choices)
    expected = torch.tensor([[float(lacking[name]) for name in row] for row in choices])
    best = (seen - expected).argmax(1).tolist()
    right = torch.tensor([float(row[place] == name) for row, place, name in zip(choices, best, names, strict=True)])
    commonest = Counter(names).most_common(1)[0][0]
    prior = torch.tensor([float(name == commonest) for name in names])
    if len({tuple(row) for row in choices}) > 1:  # Each has choices of its own: one is as good as another.
        prior = torch.full((len(names),), 1 / len(choices[0]))
    blind = torch.tensor(
        [float(row[int(place)] == name) for row, place, name in zip(choices, expected.argmax(1), names, strict=True)]
    )
    return table(right, blind, prior)


def _losses(view: AssembledView, features: Tensor, choices: Sequence[Sequence[str]]) -> Tensor:
    """[n, k]: minus the log-likelihood of each choice as the answer to what the picture shows."""
    found = []
    for picture, names in zip(features.float(), choices, strict=True):
        states, mask = view.read(picture[None], [WHAT])
        targets = view.targets(list(names))
        rows = torch.zeros(len(names), dtype=torch.int64)
        logits = view.candidate_logits(states, mask, rows, targets)
        found.append(token_losses(logits, targets).sum(1))
    return torch.stack(found)


def answers(view: AssembledView, features: Tensor, texts: Sequence[str]) -> list[str]:
    said: list[str] = []
    for start in range(0, len(texts), BATCH):
        part = slice(start, start + BATCH)
        said += view.reply(*view.read(features[part].float(), texts[part]), 1, LONGEST)
    return said


def describe(view: AssembledView, features: Tensor) -> list[str]:
    return [text for part in features.float().split(BATCH) for text in view.describe(part, "", 1, LONGEST)]


def blind_features(view: AssembledView, number: int) -> Tensor:
    return view.module.projector.mean.expand(number, view.module.projector.places, -1)


def table(picture: Tensor, blind: Tensor, prior: Tensor) -> dict[str, Any]:
    """Means over pictures, and the gain of seeing them with its interval."""
    values = {"picture": picture, "blind": blind, "prior": prior}
    found: dict[str, Any] = {name: round(float(value.double().mean()), 4) for name, value in values.items()}
    for name in ("blind", "prior"):
        gain = interval_of(drawn((picture - values[name])[None]))
        found[f"over {name}"] = [round(gain.low, 4), round(gain.high, 4)]
    return {"pictures": len(picture), **found}
