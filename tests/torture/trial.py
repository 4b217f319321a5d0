"""One trial: a command in a forked process, something that happens to it, the command again, and what must hold."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field

from tests.torture.commands import COMMANDS, Command
from tests.torture.injector import Injector, Point
from tests.torture.state import difference, state
from tests.torture.world import World

HINT = "To go on where it stopped"
PATIENCE = 120.0  # seconds; beyond it a command hangs
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
REASONS = {"full": "No space left on device", "broken": "Input/output error"}


@dataclass
class Ended:
    """How a process ended: ``code`` is negative for a signal."""

    code: int
    output: str
    seconds: float
    points: list[Point] = field(default_factory=list)


class Failed(Exception):
    """What must hold does not."""


class Torturer:
    """Trials of one command, all in the same folder, which is set up anew for each."""

    def __init__(self, name: str, world: World) -> None:
        self.command: Command = COMMANDS[name]
        self.world, self.root = world, world.root
        self.before = world.root.with_name("before")
        self.logs = world.root.with_name("logs")
        self.injector = Injector()
        for folder in (self.before, self.root, self.logs):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for line in self.command.before:
            self.run_well(line)
        self.root.rename(self.before)
        self.reset()
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            world.run(self.command.line)  # here, so that the others find what it imports
        self.reset()
        whole = self.run_well(self.command.line)
        self.points, self.seconds, self.expected = whole.points, whole.seconds, state(self.root)
        hidden = [name for name in self.expected if "vlmadapt.tmp" in name or name.endswith(".lock")]
        if hidden:
            raise Failed(f"an undisturbed run leaves {hidden}")

    def reset(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.before, self.root)

    def at_point(self, number: int, action: str) -> None:
        """Raises :class:`Failed` when ``action`` at that point is not survived as it should be."""
        self.reset()
        ended = self.run(self.command.line, action, number)
        if action == "kill":
            _hold(ended.code == -signal.SIGKILL, f"not killed but ended with {ended.code}", ended)
        elif action == "term":
            _hold(ended.code in (143, 0, -signal.SIGTERM), f"ended with {ended.code}", ended)
        else:
            self.check_refusal(ended, action)
        self.go_on(ended)

    def at_time(self, share: float, action: str) -> None:
        """The same after ``share`` of the time of an undisturbed run."""
        self.reset()
        ended = self.run(self.command.line, action, after=share * self.seconds)
        _hold(ended.code in (0, 143, -SIGNALS[action]), f"ended with {ended.code}", ended)
        self.go_on(ended)

    def twice(self, first: int, second: int) -> None:
        """Killed at point ``first``, and going on at its own point ``second``, if it comes to that one."""
        self.reset()
        killed = self.run(self.command.line, "kill", first)
        again = self.again(killed, "kill", second)
        _hold(again.code in (0, -signal.SIGKILL), f"going on, ended with {again.code}", again)
        self.go_on(again)

    def check_refusal(self, ended: Ended, action: str) -> None:
        """A failing disk costs a sentence that names the file and exit code 2; or nothing but features to keep."""
        _hold("Traceback" not in ended.output, "a traceback", ended)
        _hold(ended.code in (0, 2), f"ended with {ended.code}", ended)
        found = state(self.root)
        if ended.code == 0:
            lost = [each for each in difference(found, self.expected, whole_cache=False) if "left over" not in each]
            _hold(not lost, f"ended well, but {lost}", ended)
            return
        last = (ended.output.strip().splitlines() or [""])[-1]
        named = str(self.root) in last or (self.command.printed is not None and "standard output" in last)
        _hold(REASONS[action] in last and named, f"said {last!r}", ended)
        if action == "full":
            hidden = [name for name in found if "vlmadapt.tmp" in name or name.endswith(".lock")]
            _hold(not hidden, f"a full disk leaves {hidden}", ended)

    def go_on(self, ended: Ended) -> None:
        """The command again, as its messages say, and then what an undisturbed run would have left."""
        try:
            self.command.check(self.root)
        except AssertionError as error:
            raise Failed(str(error)) from error
        again = self.again(ended)
        _hold(again.code == 0, f"does not go on, ends with {again.code}", again)
        differs = difference(state(self.root), self.expected, whole_cache=ended.code != 0)
        _hold(not differs, "; ".join(differs), ended)

    def again(self, ended: Ended, action: str = "count", at: int = -1) -> Ended:
        """The command again, as the messages of ``ended`` and its own say."""
        line = self.command.line
        if ended.code == 143 and HINT in ended.output:
            line = tuple(shlex.split(ended.output.rpartition(HINT)[2].partition(": vlmadapt ")[2]))
        again = self.run(line, action, at)
        if again.code == 2 and "pass --resume" in again.output:
            again = self.run((*(part for part in line if part != "--overwrite"), "--resume"), action, at)
        return again

    def run_well(self, line: Sequence[str]) -> Ended:
        ended = self.run(line)
        _hold(ended.code == 0, f"{line[0]} ends with {ended.code}", ended)
        return ended

    def run(self, line: Sequence[str], action: str = "count", at: int = -1, after: float | None = None) -> Ended:
        """``line`` in a process of its own; ``after`` that many seconds ``action`` is sent to it."""
        started = time.monotonic()
        process = os.fork()
        if process == 0:
            self._child(line, "count" if after is not None else action, at)
        if after is not None:
            time.sleep(after)
            os.kill(process, SIGNALS[action])
        status, seconds = _wait(process, started), time.monotonic() - started
        output = (self.logs / "output").read_text(errors="replace")
        if status is None:
            raise Failed(f"hangs: {output}")
        points = self.logs / "points"
        counted = [Point(*each) for each in json.loads(points.read_text())] if points.exists() else []
        return Ended(os.waitstatus_to_exitcode(status), output, seconds, counted)

    def _child(self, line: Sequence[str], action: str, at: int) -> None:
        code = 70
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            (self.logs / "points").unlink(missing_ok=True)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            handle = os.open(self.logs / "output", os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            if self.command.printed is not None and line[0] == self.command.line[0]:
                os.dup2(os.open(self.root / self.command.printed, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 1)
            self.injector.arm(self.root, action, at)
            code = self.world.run(line)
        except BaseException:
            traceback.print_exc()
        finally:
            points = self.injector.disarm()
            (self.logs / "points").write_text(json.dumps(points))
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)


def _wait(process: int, started: float) -> int | None:
    """The status of ``process``; None where it had to be killed."""
    pause = 0.002
    while time.monotonic() - started < PATIENCE:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status
        time.sleep(pause)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _hold(true: bool, what: str, ended: Ended) -> None:
    if not true:
        raise Failed(f"{what}\n{ended.output[-1500:]}")
