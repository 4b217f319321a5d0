"""--cuda-full runs the whole matrix, --cuda-quick what finds most faults in little time beyond a run without either.

A run without either is route A's plain build. Static checks: one architecture in the quick run, all in the whole.
"""

from __future__ import annotations

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cuda-full", action="store_true", help="run every route, build and schedule of the CUDA kernels")
    parser.addoption("--cuda-quick", action="store_true", help="run planted bugs, sanitizers and PTX of CUDA kernels")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda_full: part of the full matrix of CUDA kernels on CPU (--cuda-full)")
    config.addinivalue_line("markers", "cuda_quick: part of the quick run of CUDA kernels on CPU (--cuda-quick)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    full, quick = (config.getoption(f"--cuda-{name}", default=False) for name in ("full", "quick"))

    def wanted(item: pytest.Item) -> bool:
        in_full, in_quick = (item.get_closest_marker(f"cuda_{name}") is not None for name in ("full", "quick"))
        plain = not in_full and not in_quick
        return in_quick if quick else (in_full and full) or plain

    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if wanted(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tables that tests leave behind (the planted bugs, the static evidence)."""
    for title, lines in TABLES.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands its tables to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tables"] = TABLES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    TABLES.update(getattr(node, "workeroutput", {}).get("tables", {}))


TABLES: dict[str, list[str]] = {}


@pytest.fixture
def tables() -> dict[str, list[str]]:
    return TABLES
