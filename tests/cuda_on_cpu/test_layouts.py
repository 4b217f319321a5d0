"""Tensor-core register layouts, stated here a second time from the PTX ISA's text, against both routes.

The emulated instructions are common to the routes, so only an independent statement can find a wrong layout. Each
formula below is the manual's own: "row = groupID for a0, a1, a4, a5 ..." of "Matrix Fragments for mma.m16n8k16 with
floating point type" and "... for mma.m16n8k8" (.tf32), and the figure of "ldmatrix".
"""

from __future__ import annotations

import numpy as np
import pytest

from .harness import toolchain
from .harness.build import HERE, Target
from .harness.case import worker
from .harness.numbers import decode, encode, poison
from .harness.process import Schedule

DRIVER = HERE / "drivers" / "layouts.cu"
ROUTES = [
    pytest.param(Target(DRIVER), id="simt"),
    pytest.param(Target(DRIVER, build="race"), id="race", marks=[pytest.mark.cuda_full, pytest.mark.cuda_quick]),
    pytest.param(Target(DRIVER, "ptx"), id="ptx", marks=[pytest.mark.cuda_full, pytest.mark.cuda_quick]),
]


def a_position(lane: int, i: int, tf32: bool) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    if tf32:  # a0, a2: row = groupID; a1, a3: groupID + 8; a0, a1: col = threadID_in_group; a2, a3: + 4
        return group + (8 if i in (1, 3) else 0), thread + (4 if i in (2, 3) else 0)
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    col = thread * 2 + (i & 1) + (0 if i < 4 else 8)
    return row, col


def b_position(lane: int, i: int, tf32: bool) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    if tf32:  # b0: row = threadID_in_group, b1: + 4; col = groupID
        return thread + 4 * i, group
    return thread * 2 + (i & 1) + (0 if i < 2 else 8), group


def c_position(lane: int, i: int) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def skip_without_tools(target: Target) -> None:
    if reason := toolchain.missing(target.route, target.build):
        pytest.skip(reason)


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("kind", ["bf16", "f16", "tf32"])
def test_mma(target: Target, kind: str) -> None:
    skip_without_tools(target)
    tf32 = kind == "tf32"
    depth, per_lane_a, per_lane_b = (8, 4, 2) if tf32 else (16, 8, 4)
    rng = np.random.default_rng(0)
    a, b = (encode(rng.integers(-60, 60, s), kind) for s in [(16, depth), (depth, 8)])  # exact in every type
    c = rng.standard_normal((16, 8)).astype(np.float32)
    lanes_a = np.array([[a[a_position(t, i, tf32)] for i in range(per_lane_a)] for t in range(32)], a.dtype)
    lanes_b = np.array([[b[b_position(t, i, tf32)] for i in range(per_lane_b)] for t in range(32)], b.dtype)
    lanes_c = np.array([[c[c_position(t, i)] for i in range(4)] for t in range(32)], np.float32)
    words_a, words_b = lanes_a.view(np.uint32), lanes_b.view(np.uint32)
    buffers = {"a": words_a, "b": words_b, "c": lanes_c, "d": poison((32, 4), np.float32)}
    got = worker(target).call(f"mma_{kind}", [], buffers, Schedule())["d"]
    want = c + decode(a, kind) @ decode(b, kind)
    expected = [[want[c_position(t, i)] for i in range(4)] for t in range(32)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(target: Target, transposed: bool) -> None:
    skip_without_tools(target)
    rows = np.arange(256, dtype=np.uint16).reshape(32, 8)
    function = "ldmatrix_transposed" if transposed else "ldmatrix"
    got = worker(target).call(function, [], {"in": rows, "out": poison((32, 4), np.uint32)}, Schedule())["out"]
    # Register m of lane t: row t / 4 of matrix m, elements 2 (t % 4) and the next, the first in the lower half; with
    # .trans row and column change places.
    for t in range(32):
        for m in range(4):
            matrix = rows[8 * m : 8 * m + 8].T if transposed else rows[8 * m : 8 * m + 8]
            low, high = matrix[t // 4, 2 * (t % 4) : 2 * (t % 4) + 2]
            assert got[t, m] == int(low) | int(high) << 16


@pytest.mark.parametrize("target", ROUTES)
def test_tf32_rounds_to_nearest_ties_away(target: Target) -> None:
    skip_without_tools(target)
    step = 2.0**-10
    x = np.array([1 + step / 2, 1 - step / 4, 1 + 0.49 * step, 1 + 1.5 * step, -(1 + step / 2), 0.0, np.inf, 3.0] * 4)
    want = np.array([1 + step, 1, 1, 1 + 2 * step, -(1 + step), 0.0, np.inf, 3.0] * 4)
    buffers = {"in": x.astype(np.float32), "out": poison((32,), np.uint32)}
    got = worker(target).call("tf32", [], buffers, Schedule())["out"]
    np.testing.assert_array_equal(got.view(np.float32).astype(np.float64)[:8], want[:8])
