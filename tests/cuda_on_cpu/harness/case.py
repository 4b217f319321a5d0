"""What a test says about a kernel, and the matrix of runs that follows from it.

    FORWARD = Kernel(name="...", driver="cache_retrieval.cu", function="forward", source="csrc/...cuh:forward_kernel",
                     shapes=[...], dtypes=[...], problem=make_problem)

    @kernel_cases(FORWARD)
    def test_forward(case): case.check()

`problem(shape, dtype, rng)` returns sizes and buffers in the driver's order, and the fp64 reference of every output
with its tolerance. Outputs enter poisoned; inputs must leave unchanged.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..ptx import Unsupported
from . import toolchain
from .build import HERE, REPOSITORY, BuildError, Target, library
from .numbers import decode
from .process import KernelFault, Schedule, Worker


@dataclass
class Problem:
    sizes: Sequence[int]
    buffers: Mapping[str, np.ndarray | None]
    expected: Mapping[str, np.ndarray]
    rtol: float = 0.0
    atol: Mapping[str, Any] = field(default_factory=dict)  # per output; default 0
    stored: Mapping[str, str] = field(default_factory=dict)  # outputs kept in a storage type, such as "bf16"

    def value(self, name: str, got: np.ndarray) -> np.ndarray:
        """An output as numbers."""
        return decode(got, self.stored[name]) if name in self.stored else got

    def check(self, out: Mapping[str, np.ndarray]) -> None:
        for name, given in self.buffers.items():
            if given is not None and name not in self.expected:
                assert out[name].tobytes() == given.tobytes(), f"input {name} was written to"
        for name, expected in self.expected.items():
            compare(name, self.value(name, out[name]), expected, self.rtol, self.atol.get(name, 0.0))


@dataclass(frozen=True)
class Kernel:
    name: str
    driver: str
    function: str
    source: str  # "path:function", printed when a run fails
    shapes: Sequence[Mapping[str, Any]]
    dtypes: Sequence[str]
    problem: Callable[[Mapping[str, Any], str, np.random.Generator], Problem]
    slow_shapes: Sequence[int] = ()  # indices left out of the ASan, race and PTX runs: too large for them

    def run(self, shape_index: int, dtype: str, worker: Worker, schedule: Schedule) -> None:
        """One problem, the same whoever runs it; raises KernelFault or AssertionError."""
        rng = np.random.default_rng([shape_index, len(dtype)])
        problem = self.problem(self.shapes[shape_index], dtype, rng)
        problem.check(worker.call(self.function, problem.sizes, problem.buffers, schedule))

    def where(self) -> str:
        path, _, function = self.source.partition(":")
        lines = (REPOSITORY / path).read_text().splitlines()
        line = next((i for i, text in enumerate(lines, 1) if f"{function}(" in text), 1)
        return f"{path}:{line}: {function}"


_workers: dict[Target, Worker | Exception] = {}


def worker(target: Target) -> Worker:
    """The worker of a target; a build that failed fails again at once."""
    if target not in _workers:
        try:
            w = Worker(library(target), target.build.startswith("asan"))
            atexit.register(w.stop)
            _workers[target] = w
        except (BuildError, Unsupported) as e:
            _workers[target] = e
    found = _workers[target]
    if isinstance(found, Exception):
        raise found
    return found


SCHEDULES = [Schedule(0), Schedule(1, 1, True), Schedule(2, 1, False), Schedule(2, 2, True)]


@dataclass(frozen=True)
class Case:
    kernel: Kernel
    shape_index: int
    dtype: str
    target: Target
    schedule: Schedule

    def label(self) -> str:
        shape = "x".join(str(v) for v in self.kernel.shapes[self.shape_index].values())
        return f"{self.kernel.name}-{self.dtype}-{shape}-{self.target.label()}-{self.schedule.label()}"

    def check(self) -> None:
        """Skips without the tools; fails with the kernel's file and line."""
        if reason := toolchain.missing(self.target.route, self.target.build):
            pytest.skip(reason)
        try:
            self.run()
        except (KernelFault, BuildError, Unsupported, AssertionError) as e:
            pytest.fail(f"{self.kernel.where()} [{self.label()}]\n{e}", pytrace=False)

    def run(self) -> None:
        self.kernel.run(self.shape_index, self.dtype, worker(self.target), self.schedule)


def compare(name: str, got: np.ndarray, expected: np.ndarray, rtol: float, atol: Any) -> None:
    """Names the worst element; a NaN is worse than any number, and right where the reference has one."""
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    if got.size == 0:
        return
    with np.errstate(invalid="ignore"):
        excess = np.abs(got.astype(np.float64) - expected) - (rtol * np.abs(expected) + atol)
    meant = (got == expected) | (np.isnan(got) & np.isnan(expected))  # infinities too
    excess = np.where(meant, 0.0, np.where(np.isnan(excess), np.inf, excess))
    if excess.max() > 0:
        at = np.unravel_index(int(excess.argmax()), excess.shape)
        at_text = ", ".join(str(int(i)) for i in at)
        wrong = int((excess > 0).sum())
        raise AssertionError(
            f"{name}[{at_text}] is {got[at]!r}, the reference says {expected[at]!r} ({wrong} of {got.size} differ)"
        )


FULL, QUICK = pytest.mark.cuda_full, pytest.mark.cuda_quick
COMPILES = pytest.mark.timeout(1800)  # the first case of a target compiles it: minutes on a busy machine
SOON_COMPILED = ("demo.cu", "hetero_aggregate.cu", "cache_retrieval_chunked.cu")  # as PTX; the others take minutes


def targets(driver: Path) -> list[tuple[Target, tuple[pytest.MarkDecorator, ...]]]:
    """Every target of a driver, and the runs it belongs to; without any, a run of all tests."""
    ptx = (FULL, QUICK) if driver.name in SOON_COMPILED else (FULL,)
    return [
        (Target(driver), ()),
        (Target(driver, build="asan"), (FULL,)),
        (Target(driver, build="asan-fast"), (QUICK,)),  # unoptimised: compiled in a quarter of the time
        (Target(driver, build="race"), (FULL, QUICK)),
        (Target(driver, "ptx", "plain", "sm_80"), ptx),
        (Target(driver, "ptx", "plain", "sm_90a"), (FULL,)),
    ]


def cases(kernel: Kernel) -> list[Any]:
    """One pytest parameter a run: the plain ones, and the rest marked cuda_full, cuda_quick or both."""
    out = []
    for target, runs in targets(HERE / "drivers" / kernel.driver):
        for shape in range(len(kernel.shapes)):
            if shape in kernel.slow_shapes and runs:
                continue
            for d, dtype in enumerate(kernel.dtypes):
                # Plain code meets every schedule; the sanitizers, which see all of them alike, meet one in turn.
                turn = SCHEDULES[(shape + d) % len(SCHEDULES)]
                for schedule in [turn] if runs else SCHEDULES:
                    case = Case(kernel, shape, dtype, target, schedule)
                    marks = () if not runs and schedule == turn else runs or (FULL,)
                    out.append(pytest.param(case, id=case.label(), marks=(*marks, COMPILES)))
    return out


def kernel_cases(kernel: Kernel) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases(kernel))
