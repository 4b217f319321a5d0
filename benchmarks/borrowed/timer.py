"""Device time by replays of CUDA graphs, host time by a clock, and what share of a measured ceiling a time is.

A call between two events measures the host wherever it takes longer than the device; a graph of many calls does not.
Cold: the calls of a graph go through inputs that together exceed twice the L2 cache. Hot: all use the same.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROUNDS = 7
FEWEST_CALLS, MOST_SETS = 10, 64
ROUND_SECONDS = 0.02  # of replays; a call that takes longer is replayed once
SLOWEST = 2.0  # seconds a call; what takes longer is not timed
IMPOSSIBLE = 1.05  # times a ceiling
REFUSING = ("copy", "bf16", "tf32", "fp32")  # not "l2": what a multiprocessor keeps need not be read from there
DEFAULT_L2 = 60 << 20
UNITS = 1e12  # FLOP/s and bytes/s of a ceiling of 1

Call = Callable[[Sequence[Tensor]], object]


class TooSlow(Exception):
    """A call takes longer than may be spent on it."""


@dataclass(frozen=True)
class Times:
    """Milliseconds a call: median and quartiles; ``how`` they were taken."""

    median: float
    low: float
    high: float
    how: str

    @classmethod
    def of(cls, milliseconds: Sequence[float], how: str) -> Times:
        low, median, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
        return cls(median, low, high, how)


def l2_bytes() -> int:
    if not torch.cuda.is_available():
        return 1 << 14  # dry: a few sets of small tensors
    return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or DEFAULT_L2


def bytes_of(tensors: Sequence[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def sets_of(inputs: Sequence[Tensor], cold: bool) -> list[list[Tensor]]:
    """The inputs, and for cold runs as many copies as make twice the L2 cache."""
    if not cold:
        return [list(inputs)]
    count = min(MOST_SETS, 2 + 2 * l2_bytes() // max(bytes_of(inputs), 1))
    copies = [[x.detach().clone().requires_grad_(x.requires_grad) for x in inputs] for _ in range(count - 1)]
    return [list(inputs), *copies]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def device_times(call: Call, inputs: Sequence[Tensor], cold: bool) -> Times:
    """Of one call. Raises :class:`TooSlow`, and what the call raises."""
    sets = sets_of(inputs, cold)
    if torch.cuda.is_available():
        return _device_times(call, sets)
    call(sets[0])
    found = [1000 * seconds_of(lambda n=n: call(sets[n % len(sets)])) for n in range(3)]  # type: ignore[misc]
    return Times.of(found, "host clock")


def _device_times(call: Call, sets: list[list[Tensor]]) -> Times:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as capture wants it: everything that is made once is made here
        call(sets[0])
        call(sets[-1])
        seconds = seconds_of(lambda: call(sets[0]))
    torch.cuda.current_stream().wait_stream(side)
    if seconds > SLOWEST:
        raise TooSlow(f"{seconds:.1f} s a call")
    calls = len(sets) if len(sets) > FEWEST_CALLS else FEWEST_CALLS if seconds < ROUND_SECONDS else max(len(sets), 2)
    order = [sets[n % len(sets)] for n in range(calls)]
    replay, how = _graph_of(call, order)
    replays = max(1, min(5, round(ROUND_SECONDS / (calls * seconds))))
    replay()
    milliseconds = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()  # type: ignore[no-untyped-call]
        for _ in range(replays):
            replay()
        end.record()  # type: ignore[no-untyped-call]
        end.synchronize()  # type: ignore[no-untyped-call]
        milliseconds.append(start.elapsed_time(end) / (calls * replays))  # type: ignore[no-untyped-call]
    return Times.of(milliseconds, how)


def _graph_of(call: Call, order: list[list[Tensor]]) -> tuple[Callable[[], object], str]:
    """A replay of all calls; what cannot be captured is called, and then the host may be what is measured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for inputs in order:
                call(inputs)
        return graph.replay, "graph"
    except RuntimeError:
        torch.cuda.synchronize()
        return lambda: [call(inputs) for inputs in order], "events, could not be captured"


def host_microseconds(call: Callable[[], object], count: int) -> float:
    """Of one call on the host, which does not wait for the device."""
    for _ in range(3):
        call()
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    spent = time.perf_counter() - start
    synchronize()
    return 1e6 * spent / count


def kernels_of(call: Callable[[], object]) -> list[str]:
    """Names of the device's kernels and copies in one call; on a CPU, of the operators."""
    from torch.profiler import ProfilerActivity, profile

    on_device = torch.cuda.is_available()
    call()
    with profile(activities=[ProfilerActivity.CUDA if on_device else ProfilerActivity.CPU]) as found:
        call()
        synchronize()
    kind = torch.autograd.DeviceType.CUDA if on_device else torch.autograd.DeviceType.CPU
    return [event.name for event in found.events() or [] if event.device_type == kind]


def clock() -> int | None:
    """MHz of the multiprocessors now, where nvidia-smi says so."""
    command = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
        return int(printed.splitlines()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def shares(work: dict[str, float], seconds: float, ceilings: dict[str, float]) -> dict[str, float]:
    """What part of each ceiling that was measured this much work in this time is."""
    return {
        name: amount / (UNITS * ceilings[name]) / seconds
        for name, amount in work.items()
        if ceilings.get(name) and amount
    }


def timed_row(times: Times, work: dict[str, float], ceilings: dict[str, float]) -> dict[str, Any]:
    """The fields of a time: with its share of the ceiling that binds, refused where that is impossible."""
    found = shares(work, times.median / 1000, ceilings)
    binding = max(found, key=lambda name: found[name]) if found else ""
    row: dict[str, Any] = {
        "ms": times.median,
        "low": times.low,
        "high": times.high,
        "how": times.how,
        "rates": {name: amount / UNITS / (times.median / 1000) for name, amount in work.items() if amount},
        "roof": binding,
        "share": found.get(binding),
    }
    for name, share in found.items():
        if name in REFUSING and share > IMPOSSIBLE:
            row["refused"] = f"{100 * share:.0f} % of the measured ceiling {name}"
    return row
