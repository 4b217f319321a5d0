"""Methods over several data sets: ranks, accuracy, differences to others, cost.

rank     = place of a method among all, 1 the best, of one set, number of shots and seed; ties share their mean place
standing = mean rank over seeds and numbers of shots of a set, then over sets: each set weighs as much as any other
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch

from vlmadapt.adapters import ADAPTERS
from vlmadapt.experiments.results import Cell, ProtocolResults
from vlmadapt.provenance.bootstrap import interval_of
from vlmadapt.provenance.intervals import LEVEL, Interval


@dataclass(frozen=True)
class Standing:
    """A method over all sets. ``spread``: sample deviation of its rank over sets and numbers of shots. ``by_set``: its
    mean rank in each. ``fit_seconds``: of one fit at the most shots, the median and the largest over the sets."""

    method: str
    rank: float
    spread: float | None
    by_set: Mapping[str, float]
    accuracy: float
    fit_seconds: float
    most_seconds: float


@dataclass(frozen=True)
class Overall:
    """Accuracy of one method less that of another, the mean over numbers of shots of a set, then over sets.

    ``interval`` is None where a set did not keep which pictures were right. ``worse``: of how many of ``cells`` (a set
    and a number of shots) it is below by a margin that chance does not explain, at ``LEVEL`` over all of them together.
    """

    mean: float
    interval: Interval | None
    worse: int
    cells: int


class Overview:
    """Results of several sets, by name, on the methods that all of them have."""

    def __init__(self, sets: Mapping[str, ProtocolResults]) -> None:
        self.sets = sets
        first, *others = sets.values()
        self.methods = [name for name in first.methods if all(name in each.methods for each in others)]
        every = dict.fromkeys(name for each in sets.values() for name in each.methods)
        self.left_out = [name for name in every if name not in self.methods]

    @property
    def shots(self) -> tuple[int, ...]:
        """Of any set, ascending."""
        return tuple(sorted({shots for each in self.sets.values() for shots in each.shots}))

    def standings(self, shots: Sequence[int] | None = None) -> list[Standing]:
        """Best rank first; ``shots``: at these numbers alone."""
        ranks = {name: self._ranks(results, shots) for name, results in self.sets.items()}
        found = [
            self._standing(method, {name: each for name, each in ranks.items() if each}) for method in self.methods
        ]
        return sorted(found, key=lambda standing: standing.rank)

    def accuracy(self, method: str, shots: Sequence[int] | None = None) -> float:
        """Mean over the numbers of shots of each set, then over sets that have one of them."""
        by_set = [
            [results.of(method, count).mean for count in results.shots if shots is None or count in shots]
            for results in self.sets.values()
        ]
        return statistics.fmean(statistics.fmean(each) for each in by_set if each)

    def calibration_error(self, method: str) -> float | None:
        """Mean over sets at the most shots of each; None where a set did not measure it."""
        name = "calibration_error"
        if any(name not in results.measures for results in self.sets.values()):
            return None
        return statistics.fmean(results.of(method, results.shots[-1], name).mean for results in self.sets.values())

    def against(self, method: str, other: str, shots: Sequence[int] | None = None) -> Overall:
        """``method`` less ``other``, set by set on the same pictures and seeds."""
        means: list[list[float]] = []
        samples: list[list[torch.Tensor]] = []
        for results in self.sets.values():
            counts = [count for count in results.shots if shots is None or count in shots]
            draws = [each for each in map(results.draws, counts) if each is not None]
            if counts:
                means.append([results.of(method, n).mean - results.of(other, n).mean for n in counts])
                samples.append([each[method] - each[other] for each in draws])
        mean, cells = statistics.fmean(map(statistics.fmean, means)), sum(map(len, means))
        if sum(map(len, samples)) < cells:
            return Overall(mean, None, 0, cells)
        # Numbers of shots of one set share its pictures and seeds, hence what is drawn of them; other sets do not.
        by_set = [torch.stack(each).mean(0) for each in samples]
        mixed = [each[torch.randperm(len(each), generator=_generator(i))] for i, each in enumerate(by_set)]
        z = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / cells)
        margins = [
            gain + z * float(draws.std())
            for gains, every in zip(means, samples, strict=True)
            for gain, draws in zip(gains, every, strict=True)
        ]
        return Overall(mean, interval_of(torch.stack(mixed).mean(0)), sum(each < 0 for each in margins), cells)

    def best(self, shots: Sequence[int], methods: Iterable[str] | None = None) -> tuple[str, list[str]]:
        """The method of the highest mean accuracy, and those that intervals of differences do not tell from it."""
        names = list(self.methods if methods is None else methods)
        first = max(names, key=lambda name: self.accuracy(name, shots))
        level = []
        for name in names:
            interval = None if name == first else self.against(first, name, shots).interval
            if interval is not None and interval.low <= 0:
                level.append(name)
        return first, level

    @property
    def singles(self) -> list[str]:
        """The methods that do not train on validation pictures, so that all have the same ones to learn from."""
        adapters = {cell.method: cell.adapter for results in self.sets.values() for cell in results.cells}
        return [name for name in self.methods if not ADAPTERS[adapters[name]].trains_on_validation]

    def _standing(self, method: str, ranks: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Standing:
        by_set = {name: statistics.fmean(each[method] for each in of.values()) for name, of in ranks.items()}
        points = [each[method] for of in ranks.values() for each in of.values()]
        seconds = [results.of(method, results.shots[-1]).fit_seconds for results in self.sets.values()]
        return Standing(
            method=method,
            rank=statistics.fmean(by_set.values()),
            spread=statistics.stdev(points) if len(points) > 1 else None,
            by_set=by_set,
            accuracy=self.accuracy(method),
            fit_seconds=statistics.median(seconds),
            most_seconds=max(seconds),
        )

    def _ranks(self, results: ProtocolResults, shots: Sequence[int] | None) -> dict[int, dict[str, float]]:
        """By number of shots, then by method: the mean over the seeds."""
        found = {}
        for count in results.shots:
            if shots is not None and count not in shots:
                continue
            cells: dict[int, list[Cell]] = {}
            for method in self.methods:
                for cell in results.cells_of(method, count):
                    cells.setdefault(cell.seed, []).append(cell)
            places = [_places({cell.method: cell.accuracy for cell in each}) for each in cells.values()]
            found[count] = {name: statistics.fmean(each[name] for each in places) for name in self.methods}
        return found


def _places(accuracies: Mapping[str, float]) -> dict[str, float]:
    """1 for the largest; ties share the mean of their places."""
    values = list(accuracies.values())
    return {
        name: 1 + sum(other > value for other in values) + (values.count(value) - 1) / 2
        for name, value in accuracies.items()
    }


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
