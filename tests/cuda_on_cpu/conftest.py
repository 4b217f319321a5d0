"""--cuda-full runs the whole matrix; without it only route A's plain build and the static checks run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cuda-full", action="store_true", help="run every route, build and schedule of the CUDA kernels")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda_full: part of the full matrix of CUDA kernels on CPU (--cuda-full)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--cuda-full", default=False):
        return
    left_out = [item for item in items if item.get_closest_marker("cuda_full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("cuda_full")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tables that tests leave behind (the planted bugs, the static evidence)."""
    for title, lines in TABLES.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


TABLES: dict[str, list[str]] = {}


@pytest.fixture
def tables() -> dict[str, list[str]]:
    return TABLES
