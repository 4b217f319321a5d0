"""A classifier on labelled pictures: every measure, every prediction, and the mistakes with what voted for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vlmadapt.atomic import remove_file
from vlmadapt.data.types import relative_key
from vlmadapt.errors import check_finite
from vlmadapt.experiments import leaks
from vlmadapt.experiments.features import seen_by
from vlmadapt.experiments.folders import BY_DOMAIN
from vlmadapt.experiments.measures import MAIN, Tested, class_counts, mean_f1, measure
from vlmadapt.experiments.protocol import describe_dataset, describe_encoder
from vlmadapt.experiments.results import Cell, ProtocolResults
from vlmadapt.experiments.rights import pack
from vlmadapt.experiments.sources import refuse_other_space
from vlmadapt.experiments.spread import Measured, measured
from vlmadapt.experiments.tested import TestData
from vlmadapt.files import write_csv
from vlmadapt.provenance.intervals import Interval, wilson
from vlmadapt.provenance.versions import versions

if TYPE_CHECKING:
    from vlmadapt.classifier import Classifier, NamedVote
    from vlmadapt.data import Extraction

VOTES = 5  # support pictures named for a mistake
MOST_VOTES = 2**18  # each explained mistake has one for every support picture: the most certain ones are explained
MOST_NUMBERS = 2**22  # probabilities in predictions.csv, above which only the largest ``FEW`` of a picture are written
FEW = 10


class ClassScore(NamedTuple):
    """One class: its test pictures and the share of them answered rightly, None without any; how many pictures were
    taken for it, the share of these that are of it, None without any, and F1, None without test pictures."""

    name: str
    pictures: int
    accuracy: float | None
    predicted: int
    precision: float | None
    f1: float | None


class DomainScore(NamedTuple):
    """One domain of a tree: its pictures, the share answered rightly, and macro-F1 over its classes."""

    name: str
    pictures: int
    accuracy: float
    macro_f1: float


class Mistake(NamedTuple):
    """A picture answered wrongly; ``votes`` are the support pictures that weighed most, where the method has such."""

    picture: str
    path: Path
    label: str
    prediction: str
    probability: float
    label_probability: float
    abstained: bool
    votes: tuple[NamedVote, ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A classifier's results on ``n`` pictures of ``C`` classes.

    results: as those of a comparison, of one fit. pictures: paths from the data's root. class_names: C. labels,
    probabilities: ``[n]`` and ``[n, C]``. abstained: ``[n]``, None where nothing was asked. measured: each measure
    with its interval. mistakes: the most certain ones first. left_out: pictures of classes that the classifier does not
    know, by class.
    """

    results: ProtocolResults
    pictures: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: Tensor
    probabilities: Tensor
    abstained: Tensor | None
    measured: list[Measured]
    by_class: list[ClassScore]
    by_domain: list[DomainScore]
    mistakes: list[Mistake]
    left_out: Mapping[str, int]

    @property
    def accuracy(self) -> float:
        """The share of test pictures that are classified rightly."""
        return self.results.cells[0].accuracy

    @property
    def interval(self) -> Interval:
        """Of ``accuracy``, by the number of test pictures (:func:`vlmadapt.provenance.intervals.wilson`)."""
        return self.results.interval(self.results.cells[0])

    @property
    def predictions(self) -> Tensor:
        """The most probable class of each picture, int64 ``[n]``."""
        return self.probabilities.argmax(-1)

    @property
    def confusion(self) -> Tensor:
        """``[C, C]``, int64: how many pictures of the class of a row were taken for that of a column."""
        classes = len(self.class_names)
        return torch.bincount(self.labels * classes + self.predictions, minlength=classes**2).view(classes, classes)

    def save(self, folder: Path) -> list[Path]:
        """Write ``results.json``, ``results.csv`` and the tables of this evaluation; returns their paths."""
        paths = list(self.results.save(folder))
        for name, (header, rows) in self._tables().items():
            paths.append(folder / name)
            write_csv(paths[-1], header, rows)
        if not self.by_domain:
            remove_file(folder / BY_DOMAIN)  # of an evaluation of other data that this one replaces
        return paths

    def _tables(self) -> dict[str, tuple[list[str], Iterable[Sequence[Any]]]]:
        interval = [f"{MAIN}_low", f"{MAIN}_high"]
        tables: dict[str, tuple[list[str], Iterable[Sequence[Any]]]] = {
            "by_class.csv": (
                ["class", "test_pictures", MAIN, *interval, "predicted", "precision", "f1"],
                [
                    [one.name, one.pictures, one.accuracy, *_interval(one.accuracy, one.pictures), *one[3:]]
                    for one in self.by_class
                ],
            ),
            "measures.csv": (
                ["measure", "value", "low", "high", "interval"],
                [[one.name, one.value, *(one.interval or ("", "")), one.by] for one in self.measured],
            ),
            "confusion.csv": (
                ["label", *self.class_names],
                [[name, *row] for name, row in zip(self.class_names, self.confusion.tolist(), strict=True)],
            ),
            "predictions.csv": (
                [
                    *("path", "label", "prediction", "probability", "right", "abstained"),
                    *(f"probability of {name}" for name in self.class_names),
                ],
                self._predictions(),
            ),
            "mistakes.csv": (
                [
                    *("path", "label", "prediction", "probability", "probability_of_label", "abstained"),
                    *(f"{what}_{i}" for i in range(1, VOTES + 1) for what in ("support", "support_class", "share")),
                ],
                map(self._mistake, self.mistakes),
            ),
        }
        if self.by_domain:
            tables[BY_DOMAIN] = (
                ["domain", "test_pictures", MAIN, *interval, "macro_f1"],
                [
                    [one.name, one.pictures, one.accuracy, *wilson(one.accuracy, one.pictures), one.macro_f1]
                    for one in self.by_domain
                ],
            )
        return tables

    def _predictions(self) -> Iterator[list[Any]]:
        few = self.probabilities.numel() > MOST_NUMBERS
        largest = self.probabilities.topk(min(FEW, len(self.class_names))).indices if few else None
        for i, (picture, label, best) in enumerate(
            zip(self.pictures, self.labels.tolist(), self.predictions.tolist(), strict=True)
        ):
            chances = [f"{value:.6g}" for value in self.probabilities[i].tolist()]
            kept = set(range(len(chances)) if largest is None else largest[i].tolist())
            yield [
                *(picture, self.class_names[label], self.class_names[best], chances[best]),
                *(_word(label == best), _word(None if self.abstained is None else bool(self.abstained[i]))),
                *(chance if place in kept else "" for place, chance in enumerate(chances)),
            ]

    def _mistake(self, one: Mistake) -> list[Any]:
        votes = [each for vote in one.votes for each in (vote.support.name, vote.class_name, f"{vote.share:.6g}")]
        chances = (f"{one.probability:.6g}", f"{one.label_probability:.6g}")
        abstained = _word(None if self.abstained is None else one.abstained)
        return [one.picture, one.label, one.prediction, *chances, abstained, *votes, *[""] * (3 * VOTES - len(votes))]


def _word(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _interval(share: float | None, number: int) -> Sequence[Any]:
    return ("", "") if share is None else wilson(share, number)


def evaluate(
    classifier: Classifier, data: TestData, extraction: Extraction, abstain: float | None = None
) -> Evaluation:
    """Every measure of a classifier on ``data``; with ``abstain``, the share of pictures that it takes for none of the
    classes, and the accuracy on the others (:meth:`Adapter.least_certainty`).

    Raises :class:`InputError` for features of another encoder, without test pictures, for scores that are not finite,
    and when ``abstain`` is asked of a classifier that was fitted without held-out pictures.
    """
    least = None if abstain is None else classifier.adapter.least_certainty(abstain)
    dataset = data.dataset
    refuse_other_space(classifier.run, dataset)
    leaks.require_test(dataset)
    samples = seen_by(classifier.adapter, classifier.encoder, dataset.test, extraction)
    logits = classifier.adapter.logits(samples.features)
    check_finite("the classifier's scores", logits, "fit it again, or look at the picture of that row")
    tested = measure(logits, samples.labels, classifier.adapter.temperature_, least)
    labels, chances = samples.labels.cpu(), tested.log_probabilities.exp()
    found = Evaluation(
        results=_results(classifier, data, tested),
        pictures=tuple(relative_key(sample.path, dataset.root) for sample in dataset.test),
        class_names=classifier.class_names,
        labels=labels,
        probabilities=chances,
        abstained=None if least is None else chances.max(-1).values < least,
        measured=measured(tested, labels),
        by_class=_by_class(chances, labels, classifier.class_names),
        by_domain=_by_domain(data.domains, tested.right, chances, labels),
        mistakes=[],
        left_out=data.left_out,
    )
    return replace(found, mistakes=_mistakes(classifier, data, samples.features, found))


def _results(classifier: Classifier, data: TestData, tested: Tested) -> ProtocolResults:
    run = classifier.run
    cell = Cell(
        method=run.method,
        adapter=run.adapter,
        shots=run.shots,
        seed=run.seed,
        split_hash=run.few_shot_split_hash,
        val_accuracy=run.val_accuracy,
        values=tested.values,
        right=pack(tested.right),
        reliability=tested.bins,
        trainable_parameters=run.trainable_parameters,
        fit_seconds=run.fit_seconds,
        peak_memory_mib=run.peak_memory_mib,
        selected=run.selected,
    )
    left_out = {"left_out": dict(data.left_out)} if data.left_out else {}
    return ProtocolResults(
        dataset={**describe_dataset(data.dataset), "test": len(data.dataset.test), **left_out},
        encoder=describe_encoder(classifier.encoder),
        protocol={
            "shots": [cell.shots],
            "seeds": [cell.seed],
            "views": run.views,
            "precision": run.precision,
            "protocol": run.protocol,
            "selection": run.selection,
        },
        versions=versions(),
        methods={cell.method: dict(run.config)},
        cells=(cell,),
    )


def _by_class(chances: Tensor, labels: Tensor, names: Sequence[str]) -> list[ClassScore]:
    counts = class_counts(chances.argmax(-1), labels, len(names))
    return [
        ClassScore(
            name=name,
            pictures=pictures,
            accuracy=hits / pictures if pictures else None,
            predicted=predicted,
            precision=hits / predicted if predicted else None,
            f1=2 * hits / (pictures + predicted) if pictures else None,
        )
        for name, hits, predicted, pictures in zip(names, *(each[0].int().tolist() for each in counts), strict=True)
    ]


def _by_domain(domains: Sequence[str], right: Tensor, chances: Tensor, labels: Tensor) -> list[DomainScore]:
    predicted, found = chances.argmax(-1), []
    for name in dict.fromkeys(domains):
        rows = torch.tensor([i for i, each in enumerate(domains) if each == name])
        f1 = mean_f1(*class_counts(predicted[rows], labels[rows], chances.shape[-1]))
        found.append(DomainScore(name, len(rows), float(right[rows].double().mean()), float(f1)))
    return found


def _mistakes(classifier: Classifier, data: TestData, features: Tensor, found: Evaluation) -> list[Mistake]:
    """The wrong answers, the most certain first, and the votes of as many of them as there is time for."""
    predicted = found.predictions
    wrong = torch.nonzero(predicted != found.labels).squeeze(-1)
    certainty = found.probabilities[wrong, predicted[wrong]]
    wrong = wrong[torch.sort(certainty, descending=True, stable=True).indices]
    votes: list[tuple[NamedVote, ...]] = []
    if classifier.adapter.explains and len(wrong):
        some = wrong[: max(VOTES, MOST_VOTES // max(1, len(classifier.support)))]
        files = [data.dataset.test[row].path for row in some.tolist()]
        explained = classifier.predict_features(files, features[some.to(features.device)], top=1, votes=VOTES)
        votes = [prediction.votes for prediction in explained]
    votes += [()] * (len(wrong) - len(votes))
    names, abstained = found.class_names, found.abstained
    return [
        Mistake(
            picture=found.pictures[row],
            path=data.dataset.test[row].path,
            label=names[int(found.labels[row])],
            prediction=names[int(predicted[row])],
            probability=float(found.probabilities[row, predicted[row]]),
            label_probability=float(found.probabilities[row, found.labels[row]]),
            abstained=abstained is not None and bool(abstained[row]),
            votes=own,
        )
        for row, own in zip(wrong.tolist(), votes, strict=True)
    ]
