"""Each operator, type and direction in a process of its own, launches blocking, against float64 on the CPU.

A fault ends the process, and with it what a GPU still answers to it: here it names its operator and costs nothing else.
Arguments are those of the operator tests, one small size and one odd.
"""

from __future__ import annotations

import io
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from benchmarks.borrowed.child import Child, Group, main
from tests.ops.calls import changed, flat, leaves, mapped, places, results_and_gradients
from tests.ops.cases import CASES
from vlmadapt import ops

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
# Relative to the largest element; results of 16-bit types are rounded to them once, their gradients as well.
TOLERANCE = {"fp32": 2e-4, "bf16": 3e-2, "fp16": 5e-3, "fp64": 1e-9}
ODD = (33, 17, 13, 7, 5, 3, 1)
AT_ONCE = 10  # processes
SECONDS = 40.0
PLAIN = {name for name, case in CASES.items() if case.plain or case.function in (ops.Relation.from_edges,)}


def groups() -> dict[str, list[str]]:
    """Cases by the operator's name."""
    found: dict[str, list[str]] = {}
    for name in CASES:
        if name not in PLAIN:
            found.setdefault(name.split(",")[0], []).append(name)
    return found


def exact(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same numbers in float64 on the CPU, integers as they are; structures are made anew there."""

    def moved(tensor: Tensor) -> Tensor:
        there = tensor.detach().cpu()
        return (there.double() if there.is_floating_point() else there).requires_grad_(tensor.requires_grad)

    arguments = mapped(arguments, moved)
    for name, number, value in places(arguments):
        if isinstance(value, ops.PreparedCache):
            arguments = changed(arguments, name, number, ops.PreparedCache(value.labels.cpu(), value.num_classes))
        if isinstance(value, ops.Relation):
            there = ops.Relation(value.row_offsets.cpu(), value.columns.cpu(), value.num_sources)
            arguments = changed(arguments, name, number, there)
    return arguments


def results(function: Any, arguments: dict[str, Any], backward: bool) -> list[Tensor]:
    if backward:
        return results_and_gradients(function, arguments, lambda x: torch.ones_like(x))[1]
    return flat(function(**arguments))


def worst(ours: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference as a share of the largest element, at least 1; a NaN that one has alone is infinite."""
    found = 0.0
    for x, wanted in zip(ours, expected, strict=True):
        x, wanted = x.detach().cpu().double(), wanted.detach().double()
        same = (x == wanted) | (x.isnan() & wanted.isnan())
        gap = torch.where(same, 0.0, (x - wanted).abs()).nan_to_num(nan=torch.inf)
        largest = wanted.nan_to_num(0, 0, 0).abs().max().item() if wanted.numel() else 0.0
        found = max(found, gap.max().item() / max(1.0, largest) if gap.numel() else 0.0)
    return found


def one(child: Child, operator: str, dtype: str, direction: str) -> None:
    torch.set_default_device(child.device)
    backward = direction == "backward"
    for name in groups()[operator]:
        case = CASES[name]
        sizes = [case.sizes, {key: ODD[n % len(ODD)] for n, key in enumerate(case.sizes)}]
        for given in sizes:
            arguments = case.draw(DTYPES[dtype], **given)
            if backward and not leaves(arguments):
                continue
            ours = results(case.function, arguments, backward)
            with torch.device("cpu"), ops.use_reference():
                expected = results(case.function, exact(arguments), backward)
            error = worst(ours, expected)
            about = f"{name} {dtype} {direction} {'x'.join(map(str, given.values()))}"
            child.check(about, error <= TOLERANCE[dtype], f"off by {error:.2e} of the largest element")


def combinations(dry: bool) -> list[tuple[str, str, str]]:
    found = []
    for operator, names in groups().items():
        for dtype in DTYPES:
            found.append((operator, dtype, "forward"))
            if any(leaves(CASES[name].draw()) for name in names):
                found.append((operator, dtype, "backward"))
    return [found[0], found[-1]] if dry else found


def run(child: Child) -> None:
    if child.more:
        one(child, *child.more)
        return

    def attempt(combination: tuple[str, str, str]) -> None:
        with tempfile.TemporaryFile("w+") as output:
            group = Group(child.command("smoke", *combination), output, {"CUDA_LAUNCH_BLOCKING": "1"})
            status = group.wait(child.patient(SECONDS))
            output.seek(0, io.SEEK_SET)
            said = output.read()
        print(f"--- {' '.join(combination)}\n{said}", flush=True)
        if status != 0:
            last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
            how = "out of time" if status is None else f"ended with status {status}"
            child.check(" ".join(combination), False, f"{how}: {last}")

    at_once = 1 if child.dry else min(AT_ONCE, os.cpu_count() or 1)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(attempt, combinations(child.dry)))


if __name__ == "__main__":
    main(run)
