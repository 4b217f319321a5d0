"""Has a kernel lost speed against its rivals? Compares a run's ratios with the committed ones: ``make bench-check``.

    python -m benchmarks.check build/benchmarks.json [--keep]

Fails when a ratio fell below the committed one by more than the tolerance (--keep stores the run's ratios instead).
Milliseconds are never compared: another machine has others, and this one has others tomorrow.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.results import Run, load, merged
from vlmadapt.files import write_json

COMMITTED = Path(__file__).with_name("ratios.json")
# Ratios of one machine scatter by up to a third between runs when it has other work.
TOLERANCE = 0.4


def ratios(run: Run) -> dict[str, float]:
    return {f"{g.name} | {rival}": round(r[0], 3) for g in run.races() for rival, r in g.ratios().items()}


def slower(now: dict[str, float], before: dict[str, float], tolerance: float = TOLERANCE) -> list[str]:
    """A line for every race in which we fell behind the committed ratio."""
    return [
        f"{name}: {now[name]:.2f}, committed {before[name]:.2f}"
        for name in sorted(before.keys() & now.keys())
        if now[name] < (1 - tolerance) * before[name]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="one JSON, or the parts of a run")
    parser.add_argument("--keep", action="store_true", help="commit this run's ratios")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    options = parser.parse_args()
    now = ratios(merged([load(path) for path in options.runs]))
    if options.keep:
        write_json(COMMITTED, now)
        return 0
    before = json.loads(COMMITTED.read_text())
    lost = slower(now, before, options.tolerance)
    print("\n".join(lost) or f"{len(before.keys() & now.keys())} ratios hold within {options.tolerance:.0%}")
    if missing := sorted(before.keys() - now.keys()):
        print(f"not measured this time: {', '.join(missing)}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
