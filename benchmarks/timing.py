"""How every benchmark times, and how it measures memory: on the CPU by the wall, on a GPU by CUDA events."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.ceilings import MEASURED

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, WARMUP = 9, 2
FEWEST = 3
BUDGET = 6.0  # seconds: a rival that takes long is timed less often
ONCE = 8.0  # seconds: a rival that takes longer is timed once, cold
# Larger than the L2 cache of any GPU so far: written between rounds, so that none starts with warm inputs.
FLUSH_BYTES = 256 << 20

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")


def device() -> torch.device:
    """Where the benchmarks run: ``--device``, the CPU unless said otherwise."""
    return torch.get_default_device()


def run(
    benchmark: Any,
    function: Callable[[], object],
    rounds: int = ROUNDS,
    flops: float = 0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Timed calls after a warm-up, ``rounds`` of them or fewer where they take long.

    Milliseconds of events on a GPU, and of what was timed once, are kept in ``extra_info``. ``flops`` is what no form
    can do without, in products of ``dtype``: a median that would be more a second than the machine's is refused.
    """
    if device().type == "cuda":
        benchmark.extra_info["own_ms"] = event_times(function, rounds)
    if (seconds := seconds_of(function)) > ONCE:
        benchmark.extra_info.setdefault("own_ms", [1000 * seconds])
        benchmark.pedantic(lambda: None, rounds=1)
        return
    seconds = seconds_of(function)
    fitting = min(rounds, max(FEWEST, int(BUDGET / max(seconds, 1e-9))))
    benchmark.pedantic(function, rounds=fitting, iterations=1)
    if benchmark.stats is not None:
        MEASURED.refuse_impossible(flops, dtype, benchmark.stats.stats.median)


def rotated(function: Callable[..., object], inputs: Sequence[Sequence[Tensor]]) -> Callable[[], object]:
    """The function of another set of inputs at each call: together they exceed the caches, so each call finds none."""
    turns = itertools.cycle(inputs)
    return lambda: function(*next(turns))


def copies(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """As many copies as exceed the caches twice, two at least."""
    size = sum(tensor.nbytes for tensor in tensors)
    return [[tensor.clone() for tensor in tensors] for _ in range(max(2, -(-2 * cache_bytes() // size)))]


def cache_bytes() -> int:
    """The largest cache of a processor, by what Linux says of it; otherwise what few have more than."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    kibibytes = [
        int(text.removesuffix("K")) for text in (path.read_text().strip() for path in sizes) if text[-1:] == "K"
    ]
    return max(kibibytes, default=64 << 10) << 10


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def event_times(function: Callable[[], object], rounds: int) -> list[float]:
    """Milliseconds on the device, one a round, each with a cold L2 cache."""
    for _ in range(WARMUP):
        function()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    times = []
    for _ in range(rounds):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()  # type: ignore[no-untyped-call]
        function()
        end.record()  # type: ignore[no-untyped-call]
        end.synchronize()  # type: ignore[no-untyped-call]
        times.append(start.elapsed_time(end))  # type: ignore[no-untyped-call]
    return times


def in_a_process(module: str, call: str) -> float:
    """What ``module.call`` returns in a process of its own.

    Memory is measured so: in this process, earlier calls have left heap behind that a later one would use again.
    """
    code = (
        f"import torch; torch.set_num_threads({torch.get_num_threads()}); torch.set_default_device({str(device())!r}); "
        f"import {module} as module; print(module.{call})"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return float(out.splitlines()[-1])


def record_memory(benchmark: Any, module: str, call: str) -> None:
    """Extra memory in MiB, as ``module.call`` returns it, kept in ``extra_info``."""
    benchmark.extra_info["extra_mib"] = in_a_process(module, call)
    benchmark.pedantic(lambda: None, rounds=1)


def extra_mib(function: Callable[[], object]) -> float:
    """Peak memory of one call beyond what the process held before it; what the call returns is part of it."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / (1 << 20)
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what was freed goes back first, or the call would use it unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    result = function()
    peak = resident("VmHWM")
    del result
    return (peak - before) / 1024


def resident(field: str) -> int:
    """A field of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])
