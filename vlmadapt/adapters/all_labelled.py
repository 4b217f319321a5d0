"""A fit on all labelled samples, whose hyper-parameters come from cross-validation. Ours.

    1. support and validation samples are dealt into folds; the method is fitted on all folds but one, with that one for
       validation samples, and chooses its hyper-parameters as it always does
    2. of each hyper-parameter the middle of what the folds chose is settled on (of its logarithms, where positive)
    3. with these, it is fitted on all folds but one once more, and predicts that one: by these predictions the
       probabilities are calibrated
    4. with these, it is fitted on all samples

Training runs to its last epoch in 3 and 4. A class of one sample is in every fit; without any sample to hold out the
configured values stand.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from vlmadapt.adapters.folds import repeats_for, splits
from vlmadapt.adapters.views import spread
from vlmadapt.progress import track
from vlmadapt.training import Samples, best_temperature, certainties, tiles

Values = Mapping[str, float]
Kind = TypeVar("Kind", bound="Fitted")


@dataclass(frozen=True)
class FitOptions:
    """How to fit, apart from data and configuration."""

    seed: int = 0
    checkpoint_dir: Path | None = None
    progress: bool = False


class Fitted(Protocol):
    """What is asked of an adapter."""

    config: Any
    temperature_: float
    certainties_: tuple[float, ...]
    held_out_accuracy_: float | None
    _edges_of_folds: dict[str, str]
    fitted_: bool

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    def another(self: Kind) -> Kind: ...

    def to(self, *args: Any) -> Any: ...

    def eval(self) -> Any: ...

    def logits(self, features: Tensor) -> Tensor: ...

    def hyperparameters(self) -> dict[str, float]: ...

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None: ...

    def _configured(self, values: Values) -> Any: ...

    def _use(self, values: Values) -> None: ...

    def _judged(self, name: str, samples: Samples) -> Tensor: ...

    def _edges(self) -> Iterator[tuple[str, str, float]]: ...


def middle(found: Sequence[Values]) -> dict[str, float]:
    """The median of each value, of its logarithm where all are positive.

    Where some of ``found`` have other names than the others (HeGraphAdapter's two fusions), the most frequent names
    decide, the earlier of equals.
    """
    names = Counter(tuple(values) for values in found).most_common(1)[0][0] if found else ()
    alike = [values for values in found if tuple(values) == names]
    return {name: _middle([values[name] for values in alike]) for name in names}


def _middle(values: Sequence[float]) -> float:
    if min(values) > 0:
        return math.exp(statistics.median(map(math.log, values)))
    return float(statistics.median(values))


def fit_on_all(adapter: Fitted, every: Samples, folds: int, repeats: int | None, options: FitOptions) -> None:
    """Fit ``adapter`` in place, as the module says; ``repeats`` None for :func:`repeats_for` as many samples."""
    repeats = repeats_for(len(every)) if repeats is None else repeats
    rounds = list(splits(every.features, every.labels, folds, repeats, options.seed))
    name = adapter.name
    found: list[Values] = []
    on_edges: Counter[tuple[str, str]] = Counter()
    for number, (known, held) in enumerate(track(rounds, f"{name}: choosing", enabled=options.progress)):
        trial = _fitted(adapter, every, known, held, {}, options, f"fold-{number}")
        found.append(trial.hyperparameters())
        on_edges.update((key, field) for key, field, _ in trial._edges())
        if not found[-1]:
            break  # a method that searches nothing
    values = middle(found)
    adapter._edges_of_folds = {key: field for (key, field), count in on_edges.items() if 2 * count > len(found)}
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    for number, (known, held) in enumerate(track(rounds, f"{name}: calibrating", enabled=options.progress)):
        trial = _fitted(adapter, every, known, None, values, options, f"held-{number}")
        judged = every.rows(held)
        features = trial._judged("features", judged)
        for rows in tiles(len(held), adapter.num_classes):
            logits.append(trial.logits(features[rows]))
            labels.append(judged.labels[rows])
    _fit_with(adapter, every, None, values, options)
    if labels:
        adapter.temperature_ = best_temperature(logits, labels)
        adapter.certainties_ = certainties(logits, adapter.temperature_)
        right = sum(int((part.argmax(-1) == true).sum()) for part, true in zip(logits, labels, strict=True))
        adapter.held_out_accuracy_ = right / sum(map(len, labels))


def _fitted(
    adapter: Kind,
    every: Samples,
    known: Tensor,
    held: Tensor | None,
    values: Values,
    options: FitOptions,
    place: str,
) -> Kind:
    """Another of its kind, fitted on some samples, into a folder of its own where checkpoints are kept."""
    directory = None if options.checkpoint_dir is None else Path(options.checkpoint_dir) / place
    trial = adapter.another()
    trial.to(every.features.device)
    validation = None if held is None else _some(every, held)
    _fit_with(
        trial, _some(every, known), validation, values, replace(options, checkpoint_dir=directory, progress=False)
    )
    trial.fitted_ = True
    trial.eval()
    return trial


def _some(every: Samples, rows: Tensor) -> Samples:
    """In the order they are in, which is that of their content."""
    return every.rows(rows.sort().values.to(every.labels.device))


def _fit_with(
    adapter: Fitted, support: Samples, validation: Samples | None, values: Values, options: FitOptions
) -> None:
    """Fit with ``values`` in place of the configured ones; the configuration itself stays what it was."""
    before = adapter.config
    adapter.config = adapter._configured(values)
    try:
        adapter._fit(spread(support), validation, options)
    finally:
        adapter.config = before
    if values:
        adapter._use(values)
