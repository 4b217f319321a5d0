"""The device, and the ceilings that every later row is a share of: copies, L2, products, gathering, launches."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from benchmarks.borrowed.child import Child, main
from benchmarks.borrowed.timer import UNITS, clock, device_times, host_microseconds, l2_bytes

PRODUCTS = {"bf16": (torch.bfloat16, "ieee"), "tf32": (torch.float32, "tf32"), "fp32": (torch.float32, "ieee")}
ROW = 512  # floats of a gathered row: 2 KB
BAG = 64  # rows that are added up


def rows_of(bytes_: int) -> Tensor:
    return torch.rand(bytes_ // (4 * ROW), ROW) * 2 - 1


def copy(child: Child) -> float:
    """Bytes read and written, a second."""
    source = torch.rand((1 << 14) if child.dry else (1 << 30))
    target = torch.empty_like(source)
    times = device_times(lambda x: x[1].copy_(x[0]), [source, target], cold=False)
    return 2 * 4 * source.numel() / (times.median / 1000)


def l2_read(child: Child) -> float:
    """16 MB read again and again, each time to its end: larger than what the multiprocessors keep."""
    again = 4 if child.dry else 64
    source = torch.rand((1 << 10) if child.dry else (1 << 22))
    times = device_times(lambda x: x[0].expand(again, -1).sum(1), [source], cold=False)
    return 4 * source.numel() * again / (times.median / 1000)


def gather(child: Child, bytes_: int) -> float:
    """Rows of 2 KB read from a table at random, 64 added up: as hetero_aggregate reads."""
    table = rows_of(1 << 16 if child.dry else bytes_)
    bags = 4 if child.dry else 8192
    index = torch.randint(len(table), (bags, BAG))
    times = device_times(lambda x: embedding_bag(x[1], x[0], mode="sum"), [table, index], cold=False)
    return 4 * ROW * bags * (BAG + 1) / (times.median / 1000)


def product(child: Child, dtype: torch.dtype, precision: str) -> float:
    size = 32 if child.dry else 8192
    torch.backends.cuda.matmul.fp32_precision = precision
    a, b = ((torch.rand(size, size) * 2 - 1).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)
    times = device_times(lambda x: torch.mm(x[0], x[1], out=x[2]), [a, b, out], cold=False)
    return 2.0 * size**3 / (times.median / 1000)


def launches(child: Child) -> None:
    one = torch.zeros(1)
    times = device_times(lambda x: [x[0].add_(1) for _ in range(100)], [one], cold=False)
    child.note("a kernel of one element in a graph", round(10 * times.median, 3), "us")
    child.note("a launch through torch, host", round(host_microseconds(lambda: one.add_(1), 500), 2), "us")


def device(child: Child) -> None:
    facts: dict[str, object] = {"torch": torch.__version__, "python": platform.python_version(), "dry": child.dry}
    if not child.dry:
        known = torch.cuda.get_device_properties(0)
        facts |= {
            "device": known.name,
            "capability": f"{known.major}.{known.minor}",
            "multiprocessors": known.multi_processor_count,
            "memory_gib": round(known.total_memory / 2**30, 1),
            "l2_mib": round(l2_bytes() / 2**20, 1),
            "cuda": torch.version.cuda,
            "clock_mhz": clock(),
        }
    child.log.write("device", **facts)


def run(child: Child) -> None:
    device(child)
    torch.set_default_device(child.device)
    torch.manual_seed(0)
    ceilings: dict[str, Callable[[], float]] = {
        "copy": lambda: copy(child),
        "l2": lambda: l2_read(child),
        **{
            name: (lambda dtype=dtype, how=how: product(child, dtype, how))  # type: ignore[misc]
            for name, (dtype, how) in PRODUCTS.items()
        },
    }
    for name, measure in ceilings.items():
        started = time.monotonic()
        value = measure() / UNITS
        seconds = round(time.monotonic() - started, 1)
        child.log.write("ceiling", name=name, value=value, seconds=seconds, clock_mhz=clock())
        print(f"{name} {value:.2f} ({seconds} s)", flush=True)
    for name, size in {"gather of 2 KB rows from 40 MB": 40 << 20, "gather of 2 KB rows from 2 GB": 2 << 30}.items():
        child.note(name, round(gather(child, size) / UNITS, 3), "TB/s")
    launches(child)


if __name__ == "__main__":
    main(run)
