"""The route "gpu" of tests/cuda_on_cpu: the emulation's drivers, shapes, poison, guards and references on the device.

Without torch on the device's side, so that a fault ends a worker that starts again in a second.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.borrowed.child import Child, main

if TYPE_CHECKING:
    from tests.cuda_on_cpu.harness.case import Kernel
    from tests.cuda_on_cpu.harness.process import Worker

SECONDS = 20.0  # a case
DRY_CASES = 100


def library(child: Child) -> Path:
    """What was carried along where it is of this tree, else built here; leaves the phase where it cannot be."""
    child.needs("numpy", "pytest")
    from tests.cuda_on_cpu import gpu_route
    from tests.cuda_on_cpu.harness import toolchain
    from tests.cuda_on_cpu.harness.build import BuildError

    path = gpu_route.EMULATED if child.dry else gpu_route.DEFAULT
    if gpu_route.key_of(path) == gpu_route.key():
        child.note("library without torch", "carried along")
        return path
    if child.dry and (reason := toolchain.missing("simt")):
        child.skip(reason)
    if not child.dry and toolchain.nvcc() is None:
        child.skip(f"{path.name} is missing or of another tree, and there is no nvcc to build it")
    try:
        gpu_route.build(path, "sm_90" if child.dry else architecture(), emulated=child.dry)
    except BuildError as error:
        print(error, flush=True)
        child.check("library without torch", False, str(error))
        raise SystemExit(1) from None
    child.note("library without torch", "built")
    return path


def architecture() -> str:
    """Of the first GPU, as nvcc writes it."""
    asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    printed = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout
    return "sm_" + printed.splitlines()[0].strip().replace(".", "")


def problems() -> Iterator[tuple[Kernel, int, str]]:
    """Kernel, number of a shape, and type: all kernels' first shapes before any kernel's last."""
    from tests.cuda_on_cpu.matrix import KERNELS

    for shape in range(max(len(kernel.shapes) for kernel in KERNELS)):
        for kernel in KERNELS:
            if shape < len(kernel.shapes):
                yield from ((kernel, shape, dtype) for dtype in kernel.dtypes)


def attempt(worker: Worker, kernel: Kernel, shape: int, dtype: str) -> str:
    """What was wrong; empty if nothing was."""
    from tests.cuda_on_cpu.harness.process import KernelFault, Schedule

    try:
        kernel.run(shape, dtype, worker, Schedule())
    except (KernelFault, AssertionError) as error:
        return f"{kernel.where()}: {error}"
    return ""


def name_of(kernel: Kernel, shape: int, dtype: str) -> str:
    return f"{kernel.name} {dtype} {' '.join(str(value) for value in kernel.shapes[shape].values())}"


def run(child: Child) -> None:
    path = library(child)
    from tests.cuda_on_cpu.harness.process import Worker

    worker = Worker(path, asan=False, seconds=SECONDS)
    for number, (kernel, shape, dtype) in enumerate(problems()):
        if child.left() < 2 or (child.dry and number == DRY_CASES):
            child.note("cases that were not run for want of time", sum(1 for _ in problems()) - number)
            break
        wrong = attempt(worker, kernel, shape, dtype)
        child.check(name_of(kernel, shape, dtype), not wrong, wrong)
    worker.stop()


if __name__ == "__main__":
    main(run)
