"""A pytest plugin: the outcome of every test is a row as soon as it is known, so that a killed run leaves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.borrowed.record import Log

if TYPE_CHECKING:
    import pytest

OUT, PHASE, AGAIN = "BORROWED_OUT", "BORROWED_PHASE", "BORROWED_AGAIN"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Of the process that gathers the others' reports; what fails before or after a test counts as that test."""
    if "PYTEST_XDIST_WORKER" in os.environ or report.skipped or not (report.when == "call" or report.failed):
        return
    name = report.nodeid + os.environ.get(AGAIN, "")
    detail = report.longreprtext[-800:] if report.failed else ""
    Log(Path(os.environ[OUT])).write("check", phase=os.environ[PHASE], name=name, good=not report.failed, detail=detail)
