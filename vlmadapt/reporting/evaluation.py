"""What an evaluation says in tables and lines."""

from __future__ import annotations

from collections.abc import Iterator

from vlmadapt.errors import shown
from vlmadapt.experiments.evaluation import Evaluation, Mistake
from vlmadapt.experiments.measures import NO_FRACTIONS, TITLES
from vlmadapt.experiments.spread import BOOTSTRAP, Measured
from vlmadapt.provenance.intervals import NAME, wilson
from vlmadapt.provenance.means import chance
from vlmadapt.reporting.table import Table


def measures_table(found: Evaluation) -> Table:
    """Every measure with its interval, fractions in per cent."""
    rows = [[TITLES.get(one.name, one.name), *_figures(one)] for one in found.measured]
    how = f"[low, high]: {NAME}, of shares of pictures; else {BOOTSTRAP}."
    none = [] if all(one.interval for one in found.measured) else ["-: without a mistake there is none to draw anew."]
    return Table("", ["measure", "value", "[low, high]"], rows, notes=[how, *none])


def _figures(one: Measured) -> tuple[str, str]:
    if one.name in NO_FRACTIONS:
        return f"{one.value:.3f}", "-" if one.interval is None else f"[{one.interval.low:.3f}, {one.interval.high:.3f}]"
    return f"{100 * one.value:.1f} %", "-" if one.interval is None else str(one.interval)


def domain_table(found: Evaluation) -> Table:
    """Accuracy and macro-F1 of each domain."""
    rows = [
        [
            shown(one.name),
            f"{one.pictures:,}",
            f"{100 * one.accuracy:.1f} {wilson(one.accuracy, one.pictures)}",
            f"{100 * one.macro_f1:.1f}",
        ]
        for one in found.by_domain
    ]
    return Table("", ["domain", "pictures", "accuracy, %", "macro-F1, %"], rows)


def hardest(found: Evaluation, most: int) -> str:
    """The classes with the smallest accuracy, as far as it is no whole one."""
    scores = [one for one in found.by_class if one.accuracy is not None and one.accuracy < 1]
    if not scores:
        return f"no mistake: all {len(found.labels):,} pictures are classified rightly"
    scores.sort(key=lambda one: one.accuracy or 0.0)
    said = [
        f"{shown(one.name)} {100 * (one.accuracy or 0):.0f} % {wilson(one.accuracy or 0, one.pictures)}"
        for one in scores[:most]
    ]
    tested = sum(one.accuracy is not None for one in found.by_class)
    rest = f"; {tested - len(scores)} of {tested} classes without a mistake" if tested > len(scores) else ""
    return f"hardest classes: {', '.join(said)}{rest}"


def worst_mistakes(found: Evaluation, most: int) -> Iterator[str]:
    """A line for each of the mistakes that the classifier was most certain of, and a heading."""
    if found.mistakes:
        number = len(found.mistakes)
        yield f"{number:,} mistakes, those it was most certain of:" if number > 1 else "1 mistake:"
        yield from map(_line, found.mistakes[:most])


def _line(one: Mistake) -> str:
    votes = f"; most of the vote: {shown(one.votes[0].support.name)}" if one.votes else ""
    return f"  {shown(one.picture)}: {shown(one.prediction)} {chance(one.probability)}, is {shown(one.label)}{votes}"
