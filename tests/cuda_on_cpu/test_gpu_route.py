"""The library that runs the drivers on a GPU: here with the emulation in its place, or compiled and not run."""

from __future__ import annotations

import importlib
import itertools
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from . import gpu_route
from .harness import toolchain
from .harness.build import CACHE, HERE
from .harness.case import COMPILES, FULL, Kernel
from .harness.process import KernelFault, Schedule, Worker
from .matrix import KERNELS

FUNCTIONS = {kernel.function for kernel in KERNELS}


def library(path: Path, drivers: Sequence[Path]) -> Path:
    """Emulated; compiled once for what it is made of."""
    if reason := toolchain.missing("simt"):
        pytest.skip(reason)
    if gpu_route.key_of(path) != gpu_route.key(drivers):
        gpu_route.build(path, emulated=True, drivers=drivers)
    return path


@pytest.fixture(scope="module")
def bugs() -> Iterator[Worker]:
    worker = Worker(library(CACHE / "gpu_route-bugs.so", [HERE / "drivers" / "bugs.cu"]), asan=False)
    yield worker
    worker.stop()


def call(worker: Worker, bug: str) -> None:
    x = np.arange(64, dtype=np.float32)
    worker.call(f"bug_{bug}", [], {"in": x, "out": np.full(64, np.nan, np.float32)}, Schedule())


def test_the_matrix_has_every_kernel_and_the_library_every_driver() -> None:
    found: list[Kernel] = []
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"{__package__}.{path.stem}")
        found += [value for value in vars(module).values() if isinstance(value, Kernel)]
    names = {kernel.name for kernel in found if not kernel.driver.startswith("demo")}
    assert names == {kernel.name for kernel in KERNELS}
    assert {kernel.driver for kernel in KERNELS} == {driver.name for driver in gpu_route.DRIVERS}


@COMPILES
def test_the_whole_matrix_passes_through_device_memory() -> None:
    worker = Worker(library(gpu_route.EMULATED, gpu_route.DRIVERS), asan=False)
    for kernel in KERNELS:
        for shape, dtype in itertools.product(range(len(kernel.shapes)), kernel.dtypes):
            kernel.run(shape, dtype, worker, Schedule())
    worker.finish()
    assert worker.process is None


@COMPILES
def test_a_write_beyond_a_buffer_is_found_and_the_worker_goes_on(bugs: Worker) -> None:
    call(bugs, "correct_reversal")
    with pytest.raises(KernelFault, match="wrote outside of out"):
        call(bugs, "global_overrun")
    call(bugs, "correct_reversal")


@COMPILES
def test_a_worker_whose_context_is_lost_is_started_again(bugs: Worker) -> None:
    with pytest.raises(KernelFault, match="barrier divergence"):
        call(bugs, "divergent_barrier")
    assert bugs.process is None
    call(bugs, "correct_reversal")


def test_the_key_is_of_the_sources(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    assert gpu_route.key_of(path) is None
    path.write_bytes(b"\0gpu-route-key:0123abc\0")
    assert gpu_route.key_of(path) == "0123abc"
    assert gpu_route.key(gpu_route.DRIVERS[:1]) != gpu_route.key(gpu_route.DRIVERS[1:2])


@FULL
@COMPILES
def test_nvcc_builds_it_without_torch() -> None:
    if toolchain.nvcc() is None:
        pytest.skip("no nvcc on PATH")
    path = gpu_route.DEFAULT
    if gpu_route.key_of(path) != gpu_route.key():
        gpu_route.build(path)
    given = gpu_route.symbols(path)
    assert FUNCTIONS | {"route_allocate", "route_free", "route_read", "route_write", "route_finish"} <= given
    needed = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    assert "torch" not in needed and "libcudart" not in needed
