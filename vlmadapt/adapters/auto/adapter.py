"""auto: a mixture of the other methods, weighed by how well they predict labelled samples they have not seen. Ours.

    p = softmax(log(sum over parts m of w_m softmax(logits_m / T_m)) / T)

All labelled samples, support and validation alike, are dealt into folds. Every part is fitted on all folds but one and
predicts that one; from these predictions come one temperature T_m a part (of largest likelihood), the weights w (EM,
with one more sample in favour of each part) and the temperature T of the whole. Then every part that has a say is
fitted once more on all samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.auto.parts import DEFAULT, PARTS, Part, Size, affordable, chosen, differing
from vlmadapt.adapters.auto.stack import Mixture, stack
from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.folds import splits, together
from vlmadapt.adapters.votes import Vote
from vlmadapt.config import AdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.modes import usual
from vlmadapt.progress import track
from vlmadapt.training import Samples, certainties, check_range, tiles

PRIOR = 2.0
LEAST_WEIGHT = 0.01  # parts with less are not fitted again: all of them together hardly move a prediction


@dataclass(frozen=True, kw_only=True)
class AutoConfig(AdapterConfig):
    """``parts`` are mixed; samples are dealt into ``folds``, ``repeats`` times; all fits take at most ``most``
    multiplications. Raises :class:`InputError` for parts that are no names, not known, or named twice."""

    parts: tuple[str, ...] = field(default=DEFAULT, metadata={"help": "what is mixed: methods at fixed settings"})
    folds: int = field(default=4, metadata={"help": "parts that the labelled samples are dealt into"})
    repeats: int = field(default=1, metadata={"help": "how often they are dealt anew"})
    most: float = field(
        default=3e13, metadata={"help": "multiplications all fits may take, about; dearer parts are left out"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.parts, str):
            object.__setattr__(self, "parts", tuple(self.parts.split("+")))
        if not isinstance(self.parts, tuple) or not all(isinstance(part, str) for part in self.parts):
            raise InputError(f"AutoConfig.parts is {self.parts!r}: name parts, with + between them.")
        chosen(self.parts)
        check_range(self, "folds", low=2)
        check_range(self, "repeats", low=1)
        check_range(self, "most", low=0.0)


class Auto(Adapter):
    """Trains on the validation samples too, and is judged by held-out predictions (``held_out_accuracy_``).

    negative_text_features: ``[C, D]``, of the negative prompts, for the part that takes them; without, it is left out.
    Without class text the parts that can do without are mixed, each at one weight against the text.
    """

    name = "auto"
    config_class = AutoConfig
    needs_text = False
    needs_negatives = True
    explains = True
    trains_on_validation = True
    numbers = ("weights", "temperatures", "whole")
    weights: Tensor
    temperatures: Tensor
    whole: Tensor

    def __init__(self, *args: Any, negative_text_features: Tensor | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("negative_text_features", negative_text_features)
        self.parts = nn.ModuleDict()  # of adapters
        for name, part in self._usable().items():
            self.parts[_key(name)] = self._make(part)
        self.register_buffer("weights", None)
        self.register_buffer("temperatures", None)
        self.register_buffer("whole", torch.ones((), dtype=torch.float64))
        self.left_out: tuple[str, ...] = ()
        self._held_out_certainties: tuple[float, ...] = ()

    def _usable(self) -> dict[str, Part]:
        parts = chosen(self.config.parts)
        kinds = self.kinds
        missing = "negative_text_features"
        if not self.has_text:
            missing = "text_features"
            parts = differing({name: part for name, part in parts.items() if not kinds[part.adapter].needs_text})
        elif self.negative_text_features is None:
            parts = {name: part for name, part in parts.items() if not kinds[part.adapter].needs_negatives}
        if not parts:
            raise InputError(
                f"AutoConfig.parts is {self.config.parts!r}: without {missing} nothing of it can be fitted, name "
                "another part too."
            )
        return parts

    def _make(self, part: Part) -> Adapter:
        return self._of_kind(self.kinds[part.adapter], part.settings)

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        every = together(support, validation)
        given = every.position.argsort()  # parts name samples as fit was given them
        features, labels = every.features[given], every.labels[given]
        parts = self._within_means(labels)
        rounds = list(splits(features, labels, self.config.folds, self.config.repeats, options.seed))
        held = _HeldOut(self, parts, features, labels, rounds, options)
        mixture = held.mixture()
        mixed = held.logits_of(mixture)
        self.held_out_accuracy_ = held.accuracy(mixed)
        self._held_out_certainties = certainties(mixed)
        kept = _worth_fitting(parts, mixture, {name: self.kinds[part.adapter].explains for name, part in parts.items()})
        weights = torch.stack([mixture.weights[index] for index in kept.values()])
        self.weights = (weights / weights.sum()).to(features.device)
        self.temperatures = mixture.temperatures[list(kept.values())].to(features.device)
        self.whole.fill_(mixture.whole)
        self.parts = nn.ModuleDict()
        for name in track(kept, "auto: all samples", enabled=options.progress):
            self.parts[_key(name)] = self._fitted(parts[name], features, labels, options, f"{name}-all")

    def _within_means(self, labels: Tensor) -> dict[str, Part]:
        """The parts that the samples and the budget suffice for; ``left_out`` names the others."""
        usable, wanted = self._usable(), self.config.parts
        present = len(labels.unique())
        able = {name: part for name, part in usable.items() if self.kinds[part.adapter].least_classes <= present}
        size = Size(len(labels), self.num_classes, self.width)
        fits = self.config.folds * self.config.repeats + 1
        parts = affordable(able, size, fits, self.config.most)
        self.left_out = tuple(name for name in wanted if name not in parts)
        return parts

    def _fitted(self, part: Part, features: Tensor, labels: Tensor, options: FitOptions, place: str) -> Adapter:
        directory = None if options.checkpoint_dir is None else Path(options.checkpoint_dir) / place
        adapter = self._make(part).to(features.device)
        return adapter.fit(features, labels, seed=options.seed, checkpoint_dir=directory)

    def _logits(self, features: Tensor) -> Tensor:
        parts = [part for _, part in self._by_weight()]
        mixture = Mixture(self.temperatures, self.weights, float(self.whole))
        return mixture.logits(lambda m: parts[m]._logits(features))

    @usual()
    @torch.no_grad()
    def explain(self, features: Any, top: int = 5) -> list[list[Vote]]:
        """The votes of the heaviest part that keeps a cache; ``support_index`` counts on through validation samples.

        Raises :class:`InputError` where no part of it keeps one, or ``top`` is below 1.
        """
        self._require_fit()
        rows = self._features("features", features)
        best = [part for _, part in sorted(self._by_weight(), key=lambda pair: -pair[0]) if part.explains]
        if not best:
            able = ", ".join(name for name, part in PARTS.items() if self.kinds[part.adapter].explains)
            raise InputError(f"no part of this auto keeps a cache to explain by: fit it with one of {able}.")
        return best[0].explain(rows, top)

    def _calibrate(self, validation: Samples | None) -> tuple[float, tuple[float, ...]]:
        """It is calibrated on held-out samples; those of validation it knows."""
        return 1.0, self._held_out_certainties

    def _by_weight(self) -> Iterator[tuple[float, Adapter]]:
        yield from zip(self.weights.tolist(), self.parts.values(), strict=True)

    def shares(self) -> dict[str, float]:
        """Weight of each part that has a say, by its name; they sum to 1."""
        return {_name(key): weight for key, weight in zip(self.parts, self.weights.tolist(), strict=True)}

    def hyperparameters(self) -> dict[str, float]:
        return {f"weight of {name}": weight for name, weight in self.shares().items()}

    def _restore(self, header: Mapping[str, Any]) -> None:
        """Only what was kept is in the file; its order is that of the configuration."""
        kept = {name.removeprefix("weight of ") for name in header["hyperparameters"]}
        self.parts = nn.ModuleDict({key: part for key, part in self.parts.items() if _name(key) in kept})
        numbers = torch.cat([self.weights, self.temperatures, self.whole.reshape(-1)])
        if set(self.shares()) != kept or any(len(each) != len(kept) for each in (self.weights, self.temperatures)):
            raise ValueError("weights and parts are not of one fit")
        if not (bool((numbers > 0).all()) and bool(torch.isfinite(numbers).all()) and self.whole.dim() == 0):
            raise ValueError("a weight or temperature is out of range")
        for part in self.parts.values():
            part.fitted_ = True  # type: ignore[assignment]


class _HeldOut:
    """What each part predicts for samples it was not fitted on, in tiles."""

    def __init__(
        self,
        owner: Auto,
        parts: dict[str, Part],
        features: Tensor,
        labels: Tensor,
        rounds: Sequence[tuple[Tensor, Tensor]],
        options: FitOptions,
    ) -> None:
        self.logits: list[list[Tensor]] = [[] for _ in parts]
        self.labels: list[Tensor] = []
        for number, (known, held) in enumerate(track(rounds, "auto: folds", enabled=options.progress)):
            kept = [held[rows] for rows in tiles(len(held), owner.num_classes)]
            self.labels += [labels[rows] for rows in kept]
            for name, logits in zip(parts, self.logits, strict=True):
                fitted = owner._fitted(parts[name], features[known], labels[known], options, f"{name}-{number}")
                logits += [fitted.logits(features[rows]) for rows in kept]

    def mixture(self) -> Mixture:
        """All alike where no sample could be held out: a class has one each."""
        count = len(self.logits)
        if not self.labels:
            even = torch.full((count,), 1 / count, dtype=torch.float64)
            return Mixture(torch.ones_like(even), even)
        return stack(self.logits, self.labels, PRIOR)

    def logits_of(self, mixture: Mixture) -> list[Tensor]:
        return [mixture.logits([parts[tile] for parts in self.logits].__getitem__) for tile in range(len(self.labels))]

    def accuracy(self, logits: Sequence[Tensor]) -> float | None:
        hits = sum(int((part.argmax(-1) == labels).sum()) for part, labels in zip(logits, self.labels, strict=True))
        total = sum(map(len, self.labels))
        return hits / total if total else None


def _worth_fitting(parts: dict[str, Part], mixture: Mixture, explains: dict[str, bool]) -> dict[str, int]:
    """Number of each part that is fitted again: those with a weight worth it, and the heaviest that can explain."""
    weights = dict(zip(parts, mixture.weights.tolist(), strict=True))
    best = max((name for name in parts if explains[name]), key=weights.__getitem__, default=None)
    most = max(weights.values())
    return {
        name: number for number, name in enumerate(parts) if weights[name] >= min(LEAST_WEIGHT, most) or name == best
    }


def _key(name: str) -> str:
    """Modules are named without dots."""
    return name.replace(".", "_")


def _name(key: str) -> str:
    return next(name for name in PARTS if _key(name) == key)
