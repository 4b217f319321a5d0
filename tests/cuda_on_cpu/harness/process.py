"""Talks to a worker process: one a library, started when first needed, started again after a fault."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import toolchain

WORKER = Path(__file__).with_name("worker.py")


class KernelFault(Exception):
    """The emulation, a sanitizer or a guard found something; the text says what and where."""


@dataclass(frozen=True)
class Schedule:
    order: int = 0  # 0 sequential, 1 reverse, 2 random: of threads and of blocks
    seed: int = 1
    eager: bool = False  # asynchronous copies land at issue, else at the wait

    def label(self) -> str:
        return f"{('sequential', 'reverse', 'random')[self.order]}-{'eager' if self.eager else 'lazy'}"


def state_and_seconds(pid: int) -> tuple[str, float]:
    """Linux: R (runs or waits for a processor), S (sleeps), T (stopped), Z (has ended); processor time used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """`seconds` of processor time a call: one that waits for a busy machine, or is paused, is not one that hangs."""

    def __init__(
        self, library: Path, asan: bool, seconds: float = 120, under: Sequence[str] = (), mutant: int | None = None
    ) -> None:
        """``under``: a command that the worker is started by, such as a sanitizer's. ``mutant``: the one to choose."""
        self.library, self.asan, self.seconds, self.under, self.mutant = library, asan, seconds, under, mutant
        self.process: subprocess.Popen[bytes] | None = None
        self.launches: list[str] = []  # kernels of the last call, in an emulation
        self.met: list[int] = []  # mutants of the library that the last call met
        self.used = 0.0  # seconds of processor time of the last call
        self.end = 0.0  # processor time of the process at which the call under way has failed
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the worker

    def start(self) -> subprocess.Popen[bytes]:
        if self.process and self.process.poll() is None:
            return self.process
        environment = dict(os.environ)
        if self.asan:
            environment["LD_PRELOAD"] = str(toolchain.asan_runtime())
            environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0"
            environment["UBSAN_OPTIONS"] = "print_stacktrace=0"
        self.errors.seek(0)
        self.errors.truncate()
        self.process = subprocess.Popen(
            [*self.under, sys.executable, "-S", str(WORKER), str(self.library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
        )
        return self.process

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def finish(self, seconds: float = 30) -> None:
        """Lets the worker end by itself, so that what it runs under can say its last words."""
        if self.process and self.process.stdin:
            self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.stop()

    def call(
        self, function: str, sizes: Sequence[int], buffers: Mapping[str, np.ndarray | None], schedule: Schedule
    ) -> dict[str, np.ndarray]:
        """Runs ``function(sizes, pointers)`` on copies of the buffers and returns them; raises KernelFault."""
        process = self.start()
        assert process.stdin and process.stdout
        arrays = {name: None if a is None else np.ascontiguousarray(a) for name, a in buffers.items()}
        request: dict[str, object] = {
            "function": function,
            "sizes": [int(s) for s in sizes],
            "buffers": [None if a is None else a.nbytes for a in arrays.values()],
            "schedule": [schedule.order, schedule.seed, int(schedule.eager)],
        }
        if self.mutant is not None:
            request["mutant"] = self.mutant
        self.end = state_and_seconds(process.pid)[1] + self.seconds
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            for a in arrays.values():
                if a is not None:
                    process.stdin.write(a.tobytes())
            process.stdin.flush()
            answer = json.loads(self._read_line())
            out = {}
            for name, a in arrays.items():
                if a is not None:
                    out[name] = np.frombuffer(self._read(a.nbytes), dtype=a.dtype).reshape(a.shape)
        except (EOFError, BrokenPipeError):
            raise KernelFault(self._last_words()) from None
        self.used = state_and_seconds(process.pid)[1] - (self.end - self.seconds)
        self.launches = [name for text in answer["launches"] for name in re.findall(r"[a-z_]+_kernel", text)]
        self.met = answer["met"]
        if answer["lost"]:
            self.stop()  # what a fault left of a GPU's context answers nothing any more
        if answer["code"] or answer["fault"]:
            raise KernelFault(answer["fault"] or f"the launcher returned error {answer['code']}")
        if answer["spilled"]:
            names = [list(arrays)[i] for i in answer["spilled"]]
            raise KernelFault(f"wrote outside of {', '.join(names)}")
        return out

    def _read(self, count: int) -> bytes:
        assert self.process and self.process.stdout
        stream, parts = self.process.stdout, []
        while count:
            self._wait()
            part = os.read(stream.fileno(), count)
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += self._read(1)
        return line

    def _wait(self) -> None:
        assert self.process and self.process.stdout
        asleep = 0  # seconds without a computation: a deadlock, since a call waits for nothing
        while not select.select([self.process.stdout], [], [], 1.0)[0]:
            state, used = state_and_seconds(self.process.pid)
            asleep = asleep + 1 if state == "S" else 0
            if used > self.end or asleep > self.seconds:
                self.stop()
                raise KernelFault(f"no answer after {self.seconds:.0f} s: the kernel does not end")

    def _last_words(self) -> str:
        assert self.process
        code = self.process.wait()
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")
        lines = [x for x in text.splitlines() if re.search(r"ERROR: AddressSanitizer|runtime error|^\s+#[0-6] ", x)]
        self.process = None
        return "\n".join(lines[:8]) or f"the worker ended with code {code}: {text[-500:]}"
