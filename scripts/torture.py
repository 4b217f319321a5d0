"""Kill every command and fail its disk at the points where it changes files, run it again, compare: docs/torture.md.

python -m scripts.torture [--commands 'fit;compare'] [--kills 100] [--faults 10] [--seed 0] [--quick]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.torture.injector import ACTIONS, KINDS, Point, build, compiler, environment

if TYPE_CHECKING:
    from tests.torture.trial import Torturer

READY = "VLMADAPT_TORTURE"  # names the folder, in the process that has the library preloaded
COLUMNS = {
    "kill": "killed at a point",
    "time": "at a time",
    "twice": "twice",
    "term": "SIGTERM",
    "full": "disk full",
    "broken": "I/O error",
}
HEADER = ["command", "points", *COLUMNS.values(), "failed"]


@dataclass
class Report:
    """What one command went through."""

    command: str
    points: list[Point] = field(default_factory=list)
    trials: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))
    failures: list[str] = field(default_factory=list)

    def row(self) -> list[str]:
        counts = [str(self.trials[name]) for name in COLUMNS]
        return [self.command, str(len(self.points)), *counts, str(len(self.failures))]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if compiler() is None:
        print("torture needs Linux and a C compiler: nothing was run.")
        return 2
    if READY not in os.environ:
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            whole = {**environment(build(Path(folder))), READY: folder, "MPLBACKEND": "agg"}
            again = [sys.executable, "-m", "scripts.torture", *(sys.argv[1:] if arguments is None else arguments)]
            return os.spawnve(os.P_WAIT, sys.executable, again, whole)
    from tests.torture.commands import COMMANDS
    from tests.torture.world import World

    names = options.commands.split(";") if options.commands else list(COMMANDS)
    unknown = [name for name in names if name not in COMMANDS]
    if unknown:
        print(f"--commands holds {unknown[0]!r}: use some of {'; '.join(COMMANDS)}.")
        return 2
    warnings.simplefilter("ignore")
    world = World(Path(os.environ[READY]).resolve())
    reports = [torture(name, world, options) for name in names]
    _print(reports)
    return 1 if any(report.failures for report in reports) else 0


def torture(name: str, world: Any, options: argparse.Namespace) -> Report:
    from tests.torture.trial import Failed, Torturer

    report = Report(name)
    try:
        torturer = Torturer(name, world)
    except Failed as failure:
        report.failures.append(f"{name}, undisturbed: {failure}")
        return report
    report.points = torturer.points
    generator = random.Random(f"{options.seed} {name}")
    for action, where in _quick(torturer, name) if options.quick else _long(torturer, options, generator):
        report.trials[action] += 1
        try:
            if action == "time":
                torturer.at_time(where, generator.choice(["kill", "kill", "kill", "term"]))
            elif action == "twice":
                torturer.twice(int(where), generator.randrange(len(torturer.points)))
            else:
                torturer.at_point(int(where), action)
        except Failed as failure:
            place = f"after {where:.2f} of its time"
            if action != "time":
                point = torturer.points[int(where)]
                place = f"at {where}, {point.kind} {os.path.relpath(point.path, world.root)}"
            report.failures.append(f"{name}, {action} {place}: {failure}")
            print(report.failures[-1], flush=True)
    print(" ".join(report.row()), flush=True)
    return report


def _quick(torturer: Torturer, name: str) -> Iterator[tuple[str, float]]:
    """A point of each kind, the middle one; what happens there goes round with kinds and commands."""
    from tests.torture.commands import COMMANDS

    for number, kind in enumerate(KINDS, start=list(COMMANDS).index(name)):
        places = [place for place, point in enumerate(torturer.points) if point.kind == kind]
        if places:
            yield ACTIONS[1:][number % 4], places[len(places) // 2]


def _long(torturer: Torturer, options: argparse.Namespace, generator: random.Random) -> Iterator[tuple[str, float]]:
    """Kills at all points, or as many as asked for, and the rest of them at random times; then the other actions."""
    points = range(len(torturer.points))
    chosen = sorted(generator.sample(points, min(len(points), options.kills)))
    yield from (("kill", place) for place in chosen)
    yield from (("time", generator.random()) for _ in range(max(options.times, options.kills - len(chosen))))
    yield from (("twice", generator.choice(points)) for _ in range(options.twice))
    for action in options.actions:
        yield from ((action, place) for place in sorted(generator.sample(points, min(len(points), options.faults))))


def _print(reports: Sequence[Report]) -> None:
    print("| " + " | ".join(HEADER) + " |")
    print("|:--------|" + "-----:|" * (len(HEADER) - 1))
    for report in reports:
        print("| " + " | ".join(report.row()) + " |")
    counted = {kind: sum(point.kind == kind for report in reports for point in report.points) for kind in KINDS}
    print("\npoints by kind: " + ", ".join(f"{kind} {number}" for kind, number in counted.items()))
    failures = [failure for report in reports for failure in report.failures]
    print(f"{sum(sum(report.trials.values()) for report in reports)} trials, {len(failures)} failed")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default="", help="names with ; between them, all by default")
    parser.add_argument("--kills", type=int, default=100, help="of each command, at points and at random times")
    parser.add_argument("--times", type=int, default=20, help="of these at random times, at least")
    parser.add_argument("--twice", type=int, default=10, help="killed, and killed again while going on")
    parser.add_argument("--faults", type=int, default=10, help="points for SIGTERM, a full disk and an I/O error each")
    parser.add_argument("--actions", nargs="*", choices=ACTIONS[2:], default=ACTIONS[2:], help="these faults only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one point of each kind")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
