"""What the kernels were meant to reach, as ratios within one run: missed ones are listed as well."""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.machines import Machine


@dataclass(frozen=True)
class Target:
    groups: str  # regular expression on a group's name
    rivals: tuple[str, ...]  # the fastest of these counts
    at_least: float  # their time over ours
    text: str


TARGETS = (
    Target(
        r"cache_retrieval \| forward( \+ backward)?(, bfloat16|, float16|, cold)? \|",
        ("eager", "compiled"),
        1.0,
        "never slower than eager or torch.compile",
    ),
    Target(r"cache_retrieval \| forward \| Q1000_C1000_K16", ("sgemm",), 0.5, "at most twice a bare sgemm"),
    Target(
        r"cache_retrieval \| forward, bfloat16 \| Q1000_C1000_K16",
        ("sgemm",),
        0.91,
        "at most 1.1 times the bare product in bfloat16",
    ),
    Target(
        r"cache_retrieval \| forward \+ backward(, bfloat16)? \| Q1000_C1000_K16",
        ("sgemm",),
        0.91,
        "at most 1.1 times the three products",
    ),
    Target(
        r"cache_retrieval \| forward \+ backward \|", ("released",), 2.5, "forward + backward 2.5 x the released form"
    ),
    Target(
        r"cache_retrieval \| forward, values", ("eager", "compiled"), 1.0, "never slower than eager or torch.compile"
    ),
    Target(r"cache_retrieval \| forward.*, values \| Q1000_n16000_C1000", ("sgemm",), 0.5, "at most twice bare sgemms"),
    Target(r"hetero_aggregate \| forward.*\| C", ("torch_sparse",), 2.0, "2 x torch.sparse CSR products"),
    Target(r"hetero_aggregate \| forward.*\| C", ("pyg",), 4.0, "4 x PyG HeteroConv"),
    Target(r"p_laplacian \| forward(?!.*_d)", ("eager", "compiled"), 4.0, "4 x the faster of eager and torch.compile"),
    Target(r"p_laplacian \| forward.*40x577", ("released",), 300.0, "300 x the released form at 577 tokens"),
    Target(r"p_laplacian_attention \| forward(?!.*_d)", ("sdpa",), 0.5, "at most twice scaled_dot_product_attention"),
    Target(
        r"p_laplacian(_attention)? \| forward.*_d",
        ("eager", "compiled"),
        1.0,
        "features of a whole head: never slower than eager or torch.compile",
    ),
    Target(
        r"p_laplacian_attention \| forward.*_d",
        ("sdpa",),
        0.4,
        "features of a whole head: at most 2.5 times scaled_dot_product_attention",
    ),
)


@dataclass(frozen=True)
class Outcome:
    target: Target
    group: str
    rival: str
    ratio: float

    @property
    def met(self) -> bool:
        return self.ratio >= self.target.at_least


def outcomes(machine: Machine) -> list[Outcome]:
    found = []
    for target in TARGETS:
        for race in machine.ratios:
            fastest = machine.fastest(race, target.rivals)
            if fastest is not None and re.match(target.groups, race):
                found.append(Outcome(target, race, *fastest))
    return found
