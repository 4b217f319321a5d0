"""The phases in the order of what they are worth a second. A budget is a limit: what one leaves, the next ones have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    number: int
    name: str
    seconds: float
    module: str
    about: str
    more: tuple[str, ...] = ()


PHASES = (
    Phase(0, "probe", 30, "probe", "device and ceilings"),
    Phase(1, "library", 75, "library", "the compiled operators, built where they do not load"),
    Phase(2, "smoke", 60, "smoke", "each operator, type and direction in a process of its own against float64"),
    Phase(3, "matrix", 90, "matrix", "the cases of the CPU emulation, without torch"),
    Phase(4, "races-cache", 60, "races", "cache_retrieval forward", ("cache",)),
    Phase(5, "races-hetero", 40, "races", "hetero_aggregate forward", ("hetero",)),
    Phase(6, "races-p-laplacian", 40, "races", "p_laplacian forward", ("p_laplacian",)),
    Phase(7, "tests", 100, "optests", "tests/ops on the device"),
    Phase(8, "sanitizer", 60, "sanitizer", "memcheck, racecheck and initcheck over some cases of the matrix"),
    Phase(9, "races-backward", 60, "races", "forward and backward of the three", ("backward",)),
    Phase(10, "races-grid", 20, "races", "the search over betas and alphas", ("grid",)),
    Phase(11, "host", 20, "host", "the host's time and the kernels of a call"),
    Phase(12, "counters", 30, "counters", "hardware counters of three kernels (ncu)"),
)
