"""What is to be tuned: methods, seeds and settings, and the fits that come of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vlmadapt.config import AdapterConfig, read_switches
from vlmadapt.errors import InputError
from vlmadapt.generative.data.records import RecordSet
from vlmadapt.generative.methods.registry import make_config, method_named
from vlmadapt.generative.tasks import TaskOptions
from vlmadapt.provenance.settings import Method, parse_method, plain
from vlmadapt.training import TrainConfig


@dataclass(frozen=True)
class TuningPlan:
    """What is run: ``methods`` on ``seeds``; a method's own ``lr`` and the like go before those of ``train``.
    One with ``blind=yes`` is trained and tested without pictures.

    ``limits`` are the most records of training, validation and test (None: all). ``lr`` None takes each method's own.
    """

    methods: Sequence[str]
    seeds: Sequence[int] = (0,)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10, batch_size=64))
    lr: float | None = None
    options: TaskOptions = field(default_factory=TaskOptions)
    limits: tuple[int | None, int | None, int | None] = (None, None, None)


@dataclass(frozen=True)
class Job:
    """One fit: method, seed and its settings. ``blind``: every picture is hidden from it, in training and after."""

    method: Method
    seed: int
    config: AdapterConfig
    train: TrainConfig
    blind: bool = False

    def __post_init__(self) -> None:
        read_switches(self)

    @property
    def describes(self) -> dict[str, Any]:
        """Every setting as JSON values."""
        hidden = {"blind": True} if self.blind else {}
        return plain({**self.config.as_dict(), "training": self.train.train_fields(), **hidden})


def check_plan(plan: TuningPlan, data: RecordSet) -> list[Job]:
    """The fits of ``plan``; needs no model, and raises :class:`InputError` for a bad plan."""
    if not plan.methods or not plan.seeds or len(set(plan.seeds)) < len(plan.seeds):
        raise InputError(
            f"methods is {list(plan.methods)}, seeds {list(plan.seeds)}: give some of each, all different."
        )
    if len(set(plan.methods)) < len(plan.methods):
        raise InputError(f"methods is {list(plan.methods)}: name each once.")
    data.limited(*plan.limits)
    return list(_jobs(plan, data))


def _jobs(plan: TuningPlan, data: RecordSet) -> Iterator[Job]:
    for text in plan.methods:
        method = parse_method(text)
        names = {entry.name for entry in fields(TrainConfig)}
        own = {name: value for name, value in method.settings.items() if name in names}
        settings = {name: value for name, value in method.settings.items() if name not in names}
        blind = settings.pop("blind", False)
        lr = method_named(method.adapter).lr if plan.lr is None else plan.lr
        train = replace(plan.train, **{"lr": lr, **own})
        config = make_config(method.adapter, data.task, settings)
        # Nothing about a frozen model depends on a seed.
        for seed in plan.seeds[:1] if method.adapter == "frozen" else plan.seeds:
            yield Job(method, seed, config, train, blind)
