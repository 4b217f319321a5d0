"""What every phase is: a process that is told where to write, how long it has, and whether this is a dry run."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.borrowed.record import Log

ROOT = Path(__file__).resolve().parent.parent.parent
SKIPPED = 77  # a child's exit status, as automake has it
DRY_PATIENCE = 6  # times a limit: what a dry run shows is that it works, on however busy a machine


@dataclass
class Child:
    log: Log
    phase: str
    dry: bool
    seconds: float
    more: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=lambda: round(time.time(), 1))  # as the rows have it

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    def patient(self, seconds: float) -> float:
        """A limit of something that the phase starts."""
        return max(1.0, min(self.left(), seconds * (DRY_PATIENCE if self.dry else 1)))

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def check(self, name: str, good: bool, detail: str = "") -> None:
        """A result that is right or wrong."""
        self.log.write("check", phase=self.phase, name=name, good=bool(good), detail=detail[-800:])
        print(f"{'ok   ' if good else 'WRONG'} {name} {'' if good else detail[-300:]}", flush=True)

    def note(self, name: str, value: object, unit: str = "") -> None:
        self.log.write("note", phase=self.phase, name=name, value=value, unit=unit)
        print(f"      {name}: {value} {unit}", flush=True)

    def skip(self, reason: str) -> None:
        """Leaves the phase, which was not run for this reason."""
        self.log.write("skip", phase=self.phase, reason=reason)
        print(f"skipped: {reason}", flush=True)
        raise SystemExit(SKIPPED)

    def needs(self, *modules: str) -> None:
        """Leaves the phase where one of the packages is not installed."""
        if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
            self.skip(f"{' and '.join(missing)} not installed")

    def command(self, module: str, *more: str) -> list[str]:
        """Another module of this package with the same settings."""
        dry = ["--dry-run"] if self.dry else []
        given = ["--out", str(self.log.folder), "--phase", self.phase, "--seconds", f"{max(self.left(), 1):.0f}"]
        site = ["-S"] if sys.flags.no_site else []
        return [sys.executable, *site, "-m", f"benchmarks.borrowed.{module}", *given, *dry, *more]


def main(run: Callable[[Child], None]) -> None:
    """The body of a phase's module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry-run", action="store_true")
    given, more = parser.parse_known_args()
    run(Child(Log(given.out), given.phase, given.dry_run, given.seconds, more))


def environment(**more: str) -> dict[str, str]:
    """Of a child process: this tree is imported, and no bytecode is left in it."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    known = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | known | {"CUDA_MODULE_LOADING": "LAZY"} | more


class Group:
    """A process and all that it starts, which end together.

    One that a phase starts, ``inner``, is of the phase's group: it ends with the phase, however that is ended.
    """

    def __init__(
        self, command: Sequence[str], output: IO[str], variables: Mapping[str, str] | None = None, inner: bool = True
    ) -> None:
        self.inner = inner
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=not inner,
        )

    def wait(self, seconds: float) -> int | None:
        """The exit status, or None where the time was over and the group was ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.end()

    def end(self) -> None:
        for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            try:
                if self.inner:
                    self.process.send_signal(number)
                else:
                    os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
