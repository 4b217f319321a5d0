"""Has a kernel lost speed against its rivals? Compares a run's ratios with the kept ones: ``make bench-check``.

    python -m benchmarks.check build/benchmarks.json

Fails when a ratio fell by more than the tolerance below the one kept of this processor, or, on one that no file is kept
of, below the worst of any. Milliseconds are never compared: another machine has others, this one has others tomorrow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machines import Machine, kept, machine_of
from benchmarks.results import load, merged

# Ratios of one machine scatter by up to a third between runs when it has other work.
TOLERANCE = 0.4


def ratios(machine: Machine) -> dict[str, float]:
    return {f"{race} | {rival}": r[0] for race, found in machine.ratios.items() for rival, r in found.items()}


def before(name: str, machines: Sequence[Machine]) -> dict[str, float]:
    """The kept ratios of the machine of that name; without it the lowest of all."""
    own = [machine for machine in machines if machine.name == name] or machines
    lowest: dict[str, float] = {}
    for machine in own:
        for race, ratio in ratios(machine).items():
            lowest[race] = min(ratio, lowest.get(race, ratio))
    return lowest


def slower(now: dict[str, float], before: dict[str, float], tolerance: float = TOLERANCE) -> list[str]:
    """A line for every race in which we fell behind the kept ratio."""
    return [
        f"{name}: {now[name]:.2f}, kept {before[name]:.2f}"
        for name in sorted(before.keys() & now.keys())
        if now[name] < (1 - tolerance) * before[name]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="one JSON, or the parts of a run")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    options = parser.parse_args()
    machine = machine_of(merged([load(path) for path in options.runs]))
    now, earlier = ratios(machine), before(machine.name, kept())
    lost = slower(now, earlier, options.tolerance)
    both = len(earlier.keys() & now.keys())
    print("\n".join(lost) or f"{both} ratios hold within {options.tolerance:.0%} ({machine.name})")
    if missing := sorted(earlier.keys() - now.keys()):
        print(f"not measured this time: {', '.join(missing)}")
    return 1 if lost or not both else 0


if __name__ == "__main__":
    sys.exit(main())
