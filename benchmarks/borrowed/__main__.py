"""Runs the phases one after another, each in its time, and keeps the table up to date.

    python3 -m benchmarks.borrowed --out DIR --budget 540 [--only races-cache,smoke] [--dry-run]

Writes three files into DIR: ``results.jsonl`` as results come, ``gpu.md`` after each phase, ``log.txt``.
``--dry-run`` needs no GPU: small shapes on the CPU, and the CUDA kernels on their emulation.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from benchmarks.borrowed import page
from benchmarks.borrowed.child import DRY_PATIENCE, SKIPPED, Child, Group
from benchmarks.borrowed.phases import PHASES, Phase
from benchmarks.borrowed.record import Log

LEAST = 3.0  # seconds: no phase shows anything in less


class Stopped(Exception):
    """SIGTERM or SIGINT came."""


def stop(number: int, _frame: FrameType | None) -> None:
    for other in (signal.SIGTERM, signal.SIGINT):  # the table is printed at every exit
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(signal.Signals(number).name)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; made where it is not there")
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything (540)")
    parser.add_argument("--only", default="", help="numbers or names of phases, with commas between")
    parser.add_argument("--dry-run", action="store_true", help="no GPU: every phase that can run on the CPU")
    return parser.parse_args()


def chosen(only: str) -> list[Phase]:
    asked = set(filter(None, only.split(",")))
    if unknown := asked - {word for phase in PHASES for word in (str(phase.number), phase.name)}:
        names = ", ".join(f"{phase.number} {phase.name}" for phase in PHASES)
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: choose among {names}.")
    return [phase for phase in PHASES if not asked or {str(phase.number), phase.name} & asked]


def obstacle() -> str | None:
    """Why nothing can run here."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return f"torch cannot be imported ({error})"
    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


def run(phase: Phase, log: Log, seconds: float, dry: bool) -> None:
    """One phase to its end, or to the end of its time; what became of it is a row."""
    print(f"{phase.number} {phase.name}: {phase.about} ({seconds:.0f} s at most)", flush=True)
    started = time.monotonic()
    child = Child(log, phase.name, dry, seconds)
    state = "stopped"
    try:
        with (log.folder / "log.txt").open("a") as output:
            output.write(f"\n===== {phase.number} {phase.name}\n")
            output.flush()
            status = Group(child.command(phase.module, *phase.more), output, inner=False).wait(seconds)
            state = {0: "done", SKIPPED: "skipped", None: "out of time"}.get(status, f"failed, status {status}")
    finally:
        reasons = [row["reason"] for row in log.rows("skip") if row["phase"] == phase.name]
        reason = reasons[-1] if state == "skipped" and reasons else ""
        spent = round(time.monotonic() - started, 1)
        log.write("phase", phase=phase.name, number=phase.number, state=state, reason=reason, seconds=spent)
        print(f"  {state} {reason} after {spent:.0f} s", flush=True)


def main() -> int:
    given = options()
    phases = chosen(given.only)
    if not given.dry_run and (reason := obstacle()):
        print(f"benchmarks.borrowed: {reason}. Nothing was run and nothing was written (--dry-run needs no GPU).")
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    log = Log(given.out)
    end = time.monotonic() + given.budget
    log.write("run", dry=given.dry_run, budget=given.budget, only=given.only)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    status = 0
    try:
        for phase in phases:
            left = end - time.monotonic()
            if left < LEAST:
                log.write("phase", phase=phase.name, number=phase.number, state="no time left", reason="", seconds=0)
                continue
            run(phase, log, min(left, phase.seconds * (DRY_PATIENCE if given.dry_run else 1)), given.dry_run)
            page.write(log)
    except Stopped as stopped:
        print(f"stopped by {stopped}", flush=True)
        status = 143
    print(page.write(log), flush=True)
    return status or int(page.failed(log))


if __name__ == "__main__":
    sys.exit(main())
