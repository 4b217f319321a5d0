"""tests/ops on the device, by pytest; those that fail once more, each file in a process of its own.

A fault of a kernel leaves its process without a GPU, so that all later tests of that process fail with it: what is
right the second time was only struck by another.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.borrowed import live
from benchmarks.borrowed.child import Child, Group, main

PROCESSES = 6
LEFT_OUT = "not opcheck and not thread_count and not operators_under"  # minutes, and little of a device in them
DRY = ["tests/ops/test_library.py", "-k", "build_info"]
ALONE = " (alone)"


def command(child: Child, tests: Sequence[str], processes: int) -> list[str]:
    """pytest with what is installed of its plugins: none is needed."""
    given = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", "-p", live.__name__]
    if importlib.util.find_spec("xdist") and processes > 1:
        given += ["--numprocesses", str(processes)]
    if importlib.util.find_spec("pytest_timeout"):
        given += ["--timeout", "60"]
    return [*given, "--device", child.device, *tests]


def pytest_run(child: Child, tests: Sequence[str], processes: int, again: str = "") -> None:
    """Outcomes are rows as they come; ``again`` is added to names, and then a fault is that of the kernel before it."""
    variables = {live.OUT: str(child.log.folder), live.PHASE: child.phase, live.AGAIN: again}
    if again:
        variables["CUDA_LAUNCH_BLOCKING"] = "1"
    with tempfile.TemporaryFile("w+") as output:
        status = Group(command(child, tests, processes), output, variables).wait(max(child.left() - 3, 1))
        output.seek(0)
        print(output.read()[-6000:], flush=True)
    if status is None:
        child.note(f"pytest {tests[0]}", "out of time")


def failed(child: Child) -> list[str]:
    """Tests that were not right, in order."""
    rows = [row for row in child.log.rows("check") if row["phase"] == child.phase and row["at"] >= child.began]
    return [row["name"] for row in rows if not row["good"] and not row["name"].endswith(ALONE)]


def run(child: Child) -> None:
    child.needs("pytest", "numpy")
    tests = DRY if child.dry else ["tests/ops", "-k", LEFT_OUT, "--maxfail", "60"]
    pytest_run(child, tests, 1 if child.dry else min(PROCESSES, os.cpu_count() or 1))
    names = failed(child)
    for path in dict.fromkeys(name.partition("::")[0] for name in names):
        if child.left() > 10:
            of_file = [name for name in dict.fromkeys(names) if name.startswith(f"{path}::")]
            pytest_run(child, of_file, 1, again=ALONE)


if __name__ == "__main__":
    main(run)
