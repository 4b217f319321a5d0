"""Peak memory of one piece of work: the process on CPU, the allocator's high-water mark on CUDA."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

MIB = 1024 * 1024
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """``with PeakMemory() as peak: ...`` and then ``peak.mib``.

    On CUDA the figure is what torch's allocator held at most inside the block. On CPU it is the largest resident size
    of the whole process inside the block: Linux lets a process reset that mark; elsewhere the mark is the one since
    the process started, which can only be too high.
    """

    mib: float = 0.0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_mark()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.mib = torch.cuda.max_memory_allocated(self.device) / MIB
        else:
            self.mib = _resident_mark() / MIB


def _reset_mark() -> None:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return  # not Linux, or a sandbox that forbids it: the mark stays the one since the start


def _resident_mark() -> int:
    """Bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
