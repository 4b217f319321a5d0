"""What a benchmark's JSON says about the machine, and threads that stay the same for every rival."""

from __future__ import annotations

import os
from collections.abc import Generator
from importlib import metadata
from typing import Any

import pytest
import torch

from benchmarks.ceilings import MEASURED
from benchmarks.rivals import MissingRival
from vlmadapt.ops import build_info
from vlmadapt.provenance.versions import versions

RIVAL_PACKAGES = ("faiss-cpu", "faiss-gpu", "pykeops", "torch-geometric", "onnxruntime")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=0, help="threads of torch and of the rivals; all by default")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """A rival whose package is missing is left out of the race."""
    try:
        return (yield)
    except MissingRival as missing:
        pytest.skip(str(missing))


@pytest.fixture(autouse=True, scope="session")
def pinned_threads(request: pytest.FixtureRequest) -> None:
    threads = request.config.getoption("--threads") or torch.get_num_threads()
    torch.set_num_threads(threads)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    built = build_info()
    machine_info["vlmadapt"] = {
        "isa": built["isa"],
        "threads": config.getoption("--threads") or torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "device": torch.cuda.get_device_name() if torch.get_default_device().type == "cuda" else "cpu",
        "masked": bool(os.environ.get("VLMADAPT_ISA")),
        "versions": versions() | rival_versions(),
    }


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Last, since the ceilings are measured on the way."""
    output_json["machine_info"]["vlmadapt"]["gflops"] = MEASURED.facts()


def rival_versions() -> dict[str, str]:
    found = {}
    for package in RIVAL_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
