"""A run's JSON as groups: one operation on one shape, and the time of every rival."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS = "ours"
# What no implementation can beat: times to be compared with, not rivals.
CEILINGS = ("sgemm", "copy", "exp")


@dataclass(frozen=True)
class Entry:
    """One rival: seconds of every round, and what else it recorded."""

    seconds: tuple[float, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quartiles(self) -> tuple[float, float]:
        if len(self.seconds) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass
class Group:
    operation: str
    what: str
    shape: str
    entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " | ".join(part for part in (self.operation, self.what, self.shape) if part)

    def ours(self) -> str | None:
        return next((rival for rival in self.entries if rival.startswith(OURS)), None)

    def ratio(self, rival: str) -> tuple[float, float, float]:
        """Times ours, median with quartiles: above 1 the rival is slower."""
        own = self.ours()
        assert own is not None
        mine, theirs = self.entries[own], self.entries[rival]
        (low, high), (their_low, their_high) = mine.quartiles(), theirs.quartiles()
        return theirs.median / mine.median, their_low / high, their_high / low

    def ratios(self) -> dict[str, tuple[float, float, float]]:
        own = self.ours()
        return {} if own is None else {rival: self.ratio(rival) for rival in self.entries if rival != own}

    def is_curve(self) -> bool:
        return any("x" in entry.extra for entry in self.entries.values())

    def is_memory(self) -> bool:
        return any("extra_mib" in entry.extra for entry in self.entries.values())


@dataclass
class Run:
    machine: dict[str, Any]
    date: str
    groups: list[Group]

    def races(self) -> Iterator[Group]:
        """Groups of times at one shape in which we took part."""
        return (g for g in self.groups if not g.is_curve() and not g.is_memory() and g.ours())


def load(path: Path) -> Run:
    """Reads what ``--benchmark-json`` wrote; times a benchmark kept itself come before them."""
    data = json.loads(path.read_text())
    groups: dict[str, Group] = {}
    for one in data["benchmarks"]:
        operation, what, shape = ([part.strip() for part in one["group"].split("|")] + ["", ""])[:3]
        group = groups.setdefault(one["group"], Group(operation, what, shape))
        extra = dict(one["extra_info"])
        own = extra.pop("own_ms", None)
        times = extra.pop("times", 1)  # only a part of the rival's work was timed
        seconds = [times * s for s in ([ms / 1000 for ms in own] if own else one["stats"]["data"])]
        rival = (one["params"] or {}).get("rival", "measured")
        name = f"{rival} {extra['x']}" if "x" in extra else rival
        group.entries[name] = Entry(tuple(seconds), {**extra, "rival": rival})
    machine = data["machine_info"]
    cpu = machine.get("cpu", {})
    facts = {**machine["vlmadapt"], "cpu": cpu.get("brand_raw", "unknown")}
    if "family" in cpu and "model" in cpu:  # on rented machines the name alone tells no two generations apart
        facts["model"] = f" (family {cpu['family']}, model {cpu['model']})"
    return Run(facts, re.split("[T ]", data["datetime"])[0], list(groups.values()))


def merged(runs: list[Run]) -> Run:
    """The first run, with the groups that it lacks."""
    first, *others = runs
    for run in others:
        known = {group.name for group in first.groups}
        first.groups += [group for group in run.groups if group.name not in known]
        first.machine["gflops"] = run.machine.get("gflops", {}) | first.machine.get("gflops", {})
    return first
