"""What the kernels were expected to take on an H200, by arithmetic, before any had run.

From instruction counts of the machine code and these rates: 132 multiprocessors at 1.83 GHz, 5.5 TB/s out of the L2
cache, 4.3 TB/s of memory, mma.sync at 62 % of wgmma. A band that a measurement leaves is refuted: then what binds is
something else. ``python -m benchmarks.borrowed.predictions`` prints the table of docs/cuda.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """``key`` are fields of a row; the value that ``field`` holds there is expected between ``low`` and ``high``."""

    about: str
    kind: str
    key: dict[str, str]
    field: str
    low: float
    high: float
    unit: str
    binds: str = ""  # what is expected to bind
    roof: str = ""  # what no implementation can beat

    def band(self) -> str:
        return f"{self.low:g} to {self.high:g} {self.unit}"

    def found(self, rows: list[Row]) -> float | None:
        """The newest measurement, refused ones left out."""
        fitting = [
            row
            for row in rows
            if row["kind"] == self.kind
            and not row.get("refused")
            and all(str(row.get(name)) == value for name, value in self.key.items())
        ]
        return float(fitting[-1][self.field]) if fitting else None

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        return "as predicted" if self.low <= value <= self.high else "**refuted**"


def ceiling(name: str, about: str, low: float, high: float, unit: str) -> Prediction:
    return Prediction(about, "ceiling", {"name": name}, "value", low, high, unit)


def note(name: str, low: float, high: float, unit: str, binds: str = "") -> Prediction:
    return Prediction(name, "note", {"name": name}, "value", low, high, unit, binds)


def time(
    group: str, shape: str, dtype: str, low: float, high: float, binds: str, roof: str = "", rival: str = "ours"
) -> Prediction:
    key = {"group": group, "shape": shape, "dtype": dtype, "rival": rival, "l2": "cold"}
    about = f"{group} {shape} {dtype}" + ("" if rival == "ours" else f", {rival}")
    return Prediction(about, "time", key, "ms", low, high, "ms", binds, roof)


LARGE, FEW = "1000x16000x512", "64x16000x1024"
IMAGES, SHORT = "32x12x577x577, d=8", "2x12x40x577, d=8"
GRADIENTS = "gradients read and written in the L2 cache"
L2, FMA, SHARED = "L2 bytes of 64 x 64 tiles", "multiply-adds", "shared loads"
SLOTS = "instruction slots, about half of them for the weights of pairs"
REGISTERS = "instruction slots: 1,000 to 1,600 for 1,024 pairs"
PARTS, TWO_PASSES = "latency: 240 blocks of a tile, then their sums", "instruction slots of two passes"

PREDICTIONS = (
    ceiling("copy", "copy, bytes read and written", 4.2, 4.4, "TB/s"),
    ceiling("bf16", "product 8192^3, bf16", 770, 800, "TFLOP/s"),
    ceiling("tf32", "product 8192^3, tf32", 350, 430, "TFLOP/s"),
    ceiling("fp32", "product 8192^3, fp32", 48, 55, "TFLOP/s"),
    ceiling("l2", "16 MB read from the L2 cache", 5.5, 7, "TB/s"),
    note("gather of 2 KB rows from 40 MB", 4, 5.5, "TB/s"),
    note("gather of 2 KB rows from 2 GB", 3.3, 3.7, "TB/s"),
    note("cache_retrieval 256x1600x512, host", 20, 35, "us", "Python, the dispatcher, one launch"),
    note("cache_retrieval 256x1600x512, launches", 1, 1, "kernels"),
    time("cache forward", LARGE, "bf16", 0.05, 0.075, "slots of the class sums, products of four chunks", "0.017 ms"),
    time("cache forward", LARGE, "bf16", 0.095, 0.12, L2, "0.017 ms", "ours_fused"),
    time("cache forward", LARGE, "bf16", 0.04, 0.055, "", rival="compiled"),
    time("cache forward", LARGE, "bf16", 0.024, 0.03, "", rival="product alone"),
    time("cache forward", LARGE, "bf16", 0.045, 0.06, "launches", rival="chunks of 4000 keys, compiled sums"),
    time("cache forward", LARGE, "bf16", 0.028, 0.038, "", rival="triton"),
    time("cache forward", LARGE, "tf32", 0.07, 0.1, "products of four chunks", "0.033 ms"),
    time("cache forward", LARGE, "tf32", 0.19, 0.23, L2, "0.033 ms", "ours_fused"),
    time("cache forward", LARGE, "tf32", 0.075, 0.095, "", rival="compiled"),
    time("cache forward", LARGE, "fp32", 0.3, 0.38, FMA, "0.26 ms"),
    time("cache forward", LARGE, "fp32", 0.36, 0.39, "", rival="compiled"),
    time("cache forward", "4096x64000x768", "bf16", 1.1, 1.6, "products, class sums of 64 chunks", "0.41 ms"),
    time("cache forward", "4096x64000x768", "bf16", 2.2, 2.6, L2, "0.41 ms", "ours_fused"),
    time("cache forward", "4096x64000x768", "fp32", 7, 9.2, FMA, "6.5 ms"),
    time("cache forward", FEW, "bf16", 0.014, 0.02, "latency: two blocks of a tile", "0.008 ms"),
    time("cache forward", FEW, "fp32", 0.037, 0.05, FMA, "0.034 ms"),
    time("cache forward", "1x16000x512", "bf16", 0.007, 0.011, "memory, and a second kernel", "0.004 ms"),
    time("cache forward", "1x16000x512", "bf16", 0.009, 0.014, "two blocks of a tile", "0.004 ms", "ours_fused"),
    time("cache forward", "1x16000x512", "fp32", 0.01, 0.014, "memory, and a second kernel", "0.008 ms"),
    time("cache forward", "1x16000x512", "fp32", 0.018, 0.025, FMA + " of 63 empty rows", "0.008 ms", "ours_fused"),
    time("cache forward", "256x1600x512", "fp32", 0.01, 0.014, "a block of a tile on 100 multiprocessors", "0.007 ms"),
    time("cache forward and backward", LARGE, "bf16", 0.24, 0.36, "products, and 64 MB chunks in memory", "0.067 ms"),
    time("cache forward and backward", LARGE, "bf16", 0.72, 0.9, GRADIENTS, "0.067 ms", "ours_fused"),
    time("cache forward and backward", LARGE, "fp32", 1.35, 1.7, FMA, "1.1 ms"),
    time("cache forward and backward", LARGE, "fp32", 1.9, 2.4, FMA, "1.1 ms", "ours_fused"),
    time("cache forward and backward", FEW, "fp32", 0.22, 0.29, FMA + ", and 64 MB of parts"),
    time("cache forward and backward", "256x1600x512", "fp32", 0.055, 0.08, FMA + " of a tile a multiprocessor"),
    time("cache grid", "1000x16000, 20 betas, 10 alphas", "fp32", 0.9, 1.6, "exponentials, class sums of every beta"),
    time("cache grid", "1000x16000, 200 betas, 20 alphas", "fp32", 6, 13, "as above", "1.5 ms"),
    time("hetero forward", "C=100", "fp32", 0.027, 0.045, "latency: a warp waits 96 times for four rows", "0.014 ms"),
    time("hetero forward", "C=1000", "fp32", 0.145, 0.175, "L2 bytes", "0.14 ms"),
    time("hetero forward", "C=1000", "bf16", 0.073, 0.095, "L2 bytes", "0.07 ms"),
    time("hetero forward", "C=21000", "fp32", 3, 4.2, "L2 and memory", "3 ms"),
    time("hetero forward", "C=1000", "tf32", 0.06, 0.1, "matrices made in every replay", "0.009 ms", "ours_dense"),
    time("hetero forward", "C=1000", "fp32", 0.12, 0.2, "products of few tiles", "0.064 ms", "ours_dense"),
    time("hetero forward", "C=1000", "tf32", 0.015, 0.025, "", rival="dense"),
    time("hetero forward", "C=1000", "fp32", 0.2, 0.3, "", rival="torch.sparse"),
    time("p_laplacian forward", IMAGES, "fp32", 0.45, 0.8, SLOTS, "0.14 ms"),
    time("p_laplacian forward", IMAGES, "bf16", 0.17, 0.32, REGISTERS, "0.07 ms"),
    time("p_laplacian forward", IMAGES, "fp32", 0.65, 0.9, "", rival="compiled"),
    time("p_laplacian forward", "32x12x577x577, d=64", "fp32", 1.85, 2.55, FMA, "0.1 ms"),
    time("p_laplacian_attention forward", IMAGES, "fp32", 1.05, 1.65, FMA, "0.3 ms"),
    time("p_laplacian_attention forward", IMAGES, "fp32", 1.75, 2.45, FMA, "0.3 ms", rival="ours_with_context"),
    time("p_laplacian_attention forward", IMAGES, "bf16", 0.2, 0.36, REGISTERS, "0.1 ms"),
    time("p_laplacian_attention forward", IMAGES, "bf16", 0.26, 0.45, REGISTERS, "0.1 ms", rival="ours_with_context"),
    time("p_laplacian_attention forward", IMAGES, "bf16", 0.08, 0.12, "", rival="sdpa"),
    time("p_laplacian_attention forward", IMAGES, "fp32", 1.2, 1.6, "", rival="compiled"),
    time("p_laplacian forward", SHORT, "fp32", 0.008, 0.014, PARTS, "0.002 ms"),
    time("p_laplacian_attention forward", SHORT, "fp32", 0.014, 0.024, PARTS),
    time("p_laplacian_attention forward and backward", SHORT, "fp32", 0.05, 0.09, PARTS),
    time("p_laplacian_attention forward and backward", IMAGES, "fp32", 6, 8.5, TWO_PASSES, "1.3 ms"),
)


def table() -> list[str]:
    """Markdown: every prediction with what is expected to bind."""
    lines = ["| what | predicted | what binds | roof |", "|---|---|---|---|"]
    return [*lines, *(f"| {p.about} | {p.band()} | {p.binds} | {p.roof} |" for p in PREDICTIONS)]


if __name__ == "__main__":
    print("\n".join(table()))
