"""tests/ops on the device, by pytest; those that fail once more, each file in a process of its own.

A fault of a kernel leaves its process without a GPU, so that all later tests of that process fail with it: what passes
the second time was only struck by another.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from benchmarks.borrowed.child import Child, Group, main

PROCESSES = 6
LEFT_OUT = "not opcheck and not thread_count and not operators_under"  # minutes, and little of a device in them
DRY = ["tests/ops/test_library.py", "-k", "build_info"]


def command(child: Child, report: Path, tests: Sequence[str], processes: int) -> list[str]:
    """pytest with what is installed of its plugins: none is needed."""
    given = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if importlib.util.find_spec("xdist") and processes > 1:
        given += ["--numprocesses", str(processes)]
    if importlib.util.find_spec("pytest_timeout"):
        given += ["--timeout", "60"]
    return [*given, "--device", child.device, *tests]


def outcomes(report: Path) -> dict[str, str]:
    """Tests by name, file first, with what was wrong; empty where it passed. Skipped ones are left out."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        if case.find("skipped") is not None:
            continue
        problem = case.find("failure") if case.find("failure") is not None else case.find("error")
        path = str(case.get("classname", "")).replace(".", "/") + ".py"
        found[f"{path}::{case.get('name')}"] = "" if problem is None else str(problem.get("message") or problem.text)
    return found


def pytest_run(child: Child, report: Path, tests: Sequence[str], processes: int, blocking: bool) -> dict[str, str]:
    with tempfile.TemporaryFile("w+") as output:
        variables = {"CUDA_LAUNCH_BLOCKING": "1"} if blocking else {}
        status = Group(command(child, report, tests, processes), output, variables).wait(max(child.left() - 3, 1))
        output.seek(0)
        print(output.read()[-6000:], flush=True)
    if status is None:
        child.note(f"pytest {tests[0]}", "out of time", "")
    return outcomes(report)


def run(child: Child) -> None:
    child.needs("pytest", "numpy")
    report = child.log.folder / "tests.xml"
    report.unlink(missing_ok=True)
    tests = DRY if child.dry else ["tests/ops", "-k", LEFT_OUT, "--maxfail", "60"]
    processes = 1 if child.dry else min(PROCESSES, os.cpu_count() or 1)
    found = pytest_run(child, report, tests, processes, blocking=False)
    if not found:
        child.check("pytest", False, "no result: log.txt has its words")
    failed = [name for name, problem in found.items() if problem]
    for name, problem in found.items():
        if not problem:
            child.check(name, True)
    with tempfile.TemporaryDirectory() as folder:
        for path in dict.fromkeys(name.partition("::")[0] for name in failed):
            names = [name for name in failed if name.startswith(f"{path}::")]
            again = {}
            if child.left() > 10:
                again = pytest_run(child, Path(folder) / "again.xml", names, 1, blocking=True)
            for name in names:
                second = again.get(name)
                how = " (not run again)" if second is None else " (alone too)" if second else " (not alone)"
                child.check(name, second == "", (second or found[name]) + how)


if __name__ == "__main__":
    main(run)
