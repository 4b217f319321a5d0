"""The harness against planted bugs: every one is found by at least one build, and correct kernels by none."""

from __future__ import annotations

import re

import numpy as np
import pytest

from .harness import toolchain
from .harness.build import HERE, Target
from .harness.case import SCHEDULES, worker
from .harness.numbers import poison
from .harness.process import KernelFault

DRIVER = HERE / "drivers" / "bugs.cu"
X = np.arange(64, dtype=np.float32)
ONES = np.ones(64, np.float32)
REVERSED, LANES_REVERSED = X[::-1], X[np.arange(64) ^ 31]
# What a correct kernel of that name would give.
MEANT = {
    "uninitialised_shared": ONES,
    "static_shared_overrun": ONES,
    "dynamic_shared_overrun": np.r_[np.float32(0), ONES[1:]],
    "global_overrun": ONES,
    "global_overread": np.r_[X[1:], np.float32(0)],
    "missing_barrier": REVERSED,
    "missing_second_barrier": 2 * REVERSED + 1,
    "divergent_barrier": ONES,
    "early_return": ONES,
    "partial_mask": np.where(np.arange(64) < 16, 2 * X + 1, X),
    "shuffle_from_outside": X,
    "copy_without_wait": X,
    "copy_wait_without_barrier": REVERSED,
    "copy_into_a_tile_in_use": REVERSED,
    "missing_syncwarp": LANES_REVERSED,
    "unsynchronised_sum": None,  # the sum itself is right in an emulation that runs one thread at a time
    "misaligned_vector": X[1 + 4 * (np.arange(64) % 8)],
    "correct_reversal": REVERSED,
    "correct_syncwarp": LANES_REVERSED,
}
BUILDS = {
    "plain": Target(DRIVER),
    "ASan + UBSan": Target(DRIVER, build="asan"),
    "race": Target(DRIVER, build="race"),
    "PTX sm_80": Target(DRIVER, "ptx"),
}


def find(name: str, target: Target) -> str | None:
    """What this build has to say about the kernel; None when it finds nothing wrong."""
    meant = MEANT[name]
    for schedule in SCHEDULES if target.build == "plain" else SCHEDULES[:1]:
        out = np.zeros(64, np.float32) if meant is None else poison((64,), np.float32)
        try:
            got = worker(target).call(f"bug_{name}", [], {"in": X, "out": out}, schedule)["out"]
        except KernelFault as e:
            return str(e)
        if meant is not None and not np.array_equal(got, meant):
            return "wrong values"
    return None


def short(text: str | None) -> str:
    if text is None:
        return "-"
    kinds = [
        (r"ERROR: AddressSanitizer: ([\w-]+)", "{}"),
        (r"runtime error: (load of misaligned|index \S+ out of bounds)", "{}"),
        (r"\b(race on|uninitialised|barrier divergence|thread exits|misaligned)", "{}"),
        (r"\b(deadlock|out of bounds|wrote outside)", "{}"),
        (r"(not in mask|names lanes|warp divergence)", "{}"),
    ]
    return next((form.format(m[1]) for p, form in kinds if (m := re.search(p, text))), text[:24])


@pytest.mark.cuda_full
@pytest.mark.cuda_quick
def test_each_bug_is_found(tables: dict[str, list[str]]) -> None:
    available = {label: t for label, t in BUILDS.items() if not toolchain.missing(t.route, t.build)}
    if not {"plain", "ASan + UBSan", "race"} <= available.keys():
        pytest.skip(next(filter(None, (toolchain.missing(t.route, t.build) for t in BUILDS.values()))))
    rows, missed, slandered = [], [], []
    for name in MEANT:
        found = {label: find(name, target) for label, target in available.items()}
        rows.append(f"{name:26}" + "".join(f"{short(text):30}" for text in found.values()))
        if name.startswith("correct") and any(found.values()):
            slandered.append((name, found))
        if not name.startswith("correct") and not any(found.values()):
            missed.append(name)
    tables["planted bugs"] = [f"{'kernel':26}" + "".join(f"{label:30}" for label in available), *rows]
    assert not missed, f"no build finds {missed}"
    assert not slandered, f"correct kernels are accused: {slandered}"


def test_a_fault_names_its_line() -> None:
    if reason := toolchain.missing("simt"):
        pytest.skip(reason)
    with pytest.raises(KernelFault, match=r"bugs\.cuh:\d+"):
        worker(BUILDS["plain"]).call("bug_divergent_barrier", [], {"in": X, "out": ONES}, SCHEDULES[0])
