"""What this machine reaches at best, measured in the run itself: a time that would exceed it is refused."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("ceilings.cpp")
LIBRARY = SOURCE.parent.parent / "build" / "ceilings.so"
# Where there is no compiler, or the processor multiplies in ways that ceilings.cpp knows nothing of: the best of these.
PRODUCTS = ((1024, 1024, 1024), (2048, 2048, 2048), (1000, 16_000, 512))
REPEATS = 5
MARGIN = 1.05
AGAIN = 3  # a processor that others slowed down while it was measured gets as many more chances


class Ceilings:
    """Floating-point operations a second by type, on all threads; each is measured when it is first needed."""

    def __init__(self) -> None:
        self.rates: dict[torch.dtype, float] = {}

    def measure(self, dtype: torch.dtype) -> float:
        """The best rate of ``dtype`` so far, after one more measurement."""
        found = [self.rates.get(dtype, 0.0), product_rate(dtype), torch.get_num_threads() * arithmetic_rate(dtype)]
        self.rates[dtype] = max(found)
        return self.rates[dtype]

    def refuse_impossible(self, flops: float, dtype: torch.dtype, seconds: float) -> None:
        """Raises :class:`ImpossibleTime` where ``flops`` in ``seconds`` are more than this machine can do."""
        if not flops or torch.get_default_device().type != "cpu":
            return
        rate = flops / seconds
        best = self.rates.get(dtype) or self.measure(dtype)
        for _ in range(AGAIN):
            if rate <= MARGIN * best:
                return
            best = self.measure(dtype)
        if rate > MARGIN * best:
            raise ImpossibleTime(
                f"{seconds:.3g} s would be {rate / 1e9:.0f} GFLOP/s, {dtype} reaches {best / 1e9:.0f} here: "
                "the work or the clock is wrong."
            )

    def facts(self) -> dict[str, float]:
        """GFLOP/s by type, as the results keep them."""
        return {str(dtype).removeprefix("torch."): round(best / 1e9, 1) for dtype, best in self.rates.items()}


class ImpossibleTime(Exception):
    """A time that beats the ceiling measured in the same run."""


def product_rate(dtype: torch.dtype) -> float:
    """Of torch's products: some processors have units for them that nothing else uses."""
    best = 0.0
    for rows, columns, width in PRODUCTS:
        left, right = torch.ones(rows, width, dtype=dtype), torch.ones(columns, width, dtype=dtype)
        out = torch.empty(rows, columns, dtype=dtype)
        torch.mm(left, right.T, out=out)
        for _ in range(1 if dtype is torch.float16 else REPEATS):  # a second and more each without instructions for it
            start = time.perf_counter()
            torch.mm(left, right.T, out=out)
            best = max(best, 2 * rows * columns * width / (time.perf_counter() - start))
    return best


def arithmetic_rate(dtype: torch.dtype) -> float:
    """Of one thread's multiply-adds in registers, zero where that cannot be measured; float16 is widened to float32."""
    library = _library()
    name = {torch.float32: "float32_rate", torch.float16: "float32_rate", torch.bfloat16: "bfloat16_rate"}.get(dtype)
    if library is None or name is None:
        return 0.0
    function = getattr(library, name)
    function.restype = ctypes.c_double
    return max(float(function()) for _ in range(REPEATS))


@cache
def _library() -> ctypes.CDLL | None:
    """ceilings.cpp compiled for this very processor."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        return None
    LIBRARY.parent.mkdir(exist_ok=True)
    flags = ["-O2", "-march=native", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC"]
    made = subprocess.run([compiler, *flags, SOURCE, "-o", LIBRARY], capture_output=True, check=False)
    return ctypes.CDLL(str(LIBRARY)) if made.returncode == 0 else None


MEASURED = Ceilings()
