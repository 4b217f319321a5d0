"""The CUDA kernels of hetero_aggregate on the CPU, against the formula in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .harness.case import Case, Kernel, Problem, kernel_cases
from .harness.numbers import DTYPE_CODE, EPSILON, accumulation, decode, encode, poison

DTYPES = ["f32", "bf16", "f16", "f64"]
INDEX = {"i32": np.int32, "i64": np.int64}
FAR_ROWS, FAR_EDGES = 2**28, 2**32 + 2**31  # of "far": places that no 32-bit offset reaches


def tolerance(dtype: str) -> float:
    """Relative to the sum of magnitudes, since signs differ: sums in the accumulation type."""
    return 1e-12 if dtype == "f64" else 2e-5


def problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    """Forward: `own` is no input. Backward: edges are permuted, gradients of weights and coefficients come back."""
    rows, width, how = shape["rows"], shape["width"], shape["how"]
    t, index = accumulation(dtype), INDEX[shape["index"]]
    backward, stacked = "backward" in how, "stacked" in how
    far_rows, far_edges = (FAR_ROWS, FAR_EDGES) if "far" in how else (0, 0)
    matrices = [encode(rng.standard_normal((n, width)), dtype) for n in shape["matrices"]]
    own = encode(rng.standard_normal((rows, width)), dtype) if backward else None
    exact_own = decode(own, dtype) if own is not None else None
    relations: dict[str, np.ndarray | None] = {}
    expected: dict[str, np.ndarray] = {}
    atol: dict[str, Any] = {}
    parts, sizes, numbers = [], [], []
    counts = []
    for r, given in enumerate(shape["edges"]):
        m = r % len(matrices)
        numbers.append(m)
        if isinstance(given, int):
            count = given
            # The last row has no edges; one row has more than a warp takes at once, where there are enough.
            owners = np.sort(np.where(rng.random(count) < 0.5, 0, rng.integers(0, max(rows - 1, 1), count)))
        else:
            owners = np.repeat(np.arange(rows), given)
            count = len(owners)
        counts.append(count)
        offsets = np.searchsorted(owners, np.arange(rows + 1)).astype(np.int64)
        columns = rng.integers(0, max(len(matrices[m]), 1), count).astype(index)
        edges = rng.permutation(count).astype(index) if backward else None
        weights = None if "ones" in how else rng.standard_normal(count).astype(t)
        # A row without edges is zero, whatever the coefficient.
        coefficient = (rng.standard_normal(1) if count else np.array([np.inf])).astype(t)
        place = np.arange(count) if edges is None else edges
        w = np.ones(count) if weights is None else weights.astype(np.float64)[place]
        read = decode(matrices[m], dtype)[columns]
        part, size = np.zeros((rows, width)), np.zeros((rows, width))
        np.add.at(part, owners, w[:, None] * read)
        np.add.at(size, owners, np.abs(w[:, None] * read))
        c = float(coefficient[0]) if count else 0.0
        grads: dict[str, np.ndarray | None] = {f"grad_weights{r}": None, f"grad_coefficient{r}": None}
        if exact_own is not None and "weights" in how:
            name = f"grad_weights{r}"
            grads[name] = poison((count,), t)
            dots, magnitude = np.zeros(count), np.zeros(count)
            dots[place] = c * (exact_own[owners] * read).sum(-1)
            magnitude[place] = abs(c) * np.abs(exact_own[owners] * read).sum(-1)
            expected[name], atol[name] = dots, tolerance(dtype) * magnitude
        if exact_own is not None and "coefficients" in how:
            name = f"grad_coefficient{r}"
            grads[name] = poison((1,), t)
            expected[name] = np.array([(exact_own * part).sum()])
            atol[name] = tolerance(dtype) * (np.abs(exact_own) * size).sum()
        relations |= {
            f"offsets{r}": offsets + far_edges, f"columns{r}": columns + index(far_rows),
            f"edges{r}": None if edges is None else edges + index(far_edges), f"weights{r}": weights,
            f"coefficient{r}": coefficient, **grads,
        }  # fmt: skip
        parts.append(c * part)
        sizes.append(abs(c) * size)
    if "no out" not in how:
        exact = np.array(parts) if stacked else np.sum(parts, 0) if parts else np.zeros((rows, width))
        size = np.array(sizes) if stacked else np.sum(sizes, 0)
        out = poison(exact.shape, encode(np.zeros(1), dtype).dtype.type)
        atol["out"] = tolerance(dtype) * size
        if dtype in ("bf16", "f16"):  # rounded to the storage type once: half a step, and half's denormals
            atol["out"] = atol["out"] + EPSILON[dtype] / 2 * np.abs(exact) + 2.0**-25
        expected["out"] = exact
        buffers: dict[str, np.ndarray | None] = {"out": out}
    else:
        buffers = {"out": None}
    buffers |= {"own": own, **relations}
    buffers |= {f"matrix{m}": matrix for m, matrix in enumerate(matrices)}
    header = [DTYPE_CODE[dtype], list(INDEX).index(shape["index"]), rows, width, len(numbers), len(matrices)]
    header += [int(stacked), far_rows, far_edges, *numbers, *map(len, matrices), *counts]
    return Problem(header, buffers, expected, 0.0, atol, {"out": dtype})


def a_shape(
    rows: int, width: int, matrices: list[int], edges: list[int] | list[list[int]], how: str, index: str = "i32"
) -> dict[str, Any]:
    """``edges`` of each relation, at random, or of each of its rows."""
    return {"rows": rows, "width": width, "matrices": matrices, "edges": edges, "how": how, "index": index}


FORWARD = Kernel(
    name="hetero_forward",
    driver="hetero_aggregate.cu",
    function="hetero_aggregate",
    source="csrc/hetero_aggregate/aggregate.cuh:aggregate_kernel",
    shapes=[
        a_shape(1, 1, [1], [1], "forward"),
        a_shape(3, 7, [5], [9], "forward", "i64"),  # rows that no 16-byte access may touch
        a_shape(0, 8, [4], [0], "forward"),
        a_shape(4, 8, [0], [0], "forward ones"),
        a_shape(4, 0, [3], [6], "forward"),
        a_shape(5, 40, [6, 3], [90, 0, 11], "forward"),  # more edges than a warp takes at once
        a_shape(9, 520, [4], [20, 7], "forward stacked"),  # wider than the registers of a warp
        a_shape(6, 261, [5, 2], [13, 8], "forward stacked ones", "i64"),
        a_shape(2, 16, [3], [2] * 19, "forward"),  # more relations than one launch describes
        a_shape(3, 40, [5], [50], "forward far", "i32"),
        # Rows that are cut: at the limit, one more, several segments, neighbours; relations that may not be.
        a_shape(7, 265, [1025, 1024], [[1500, 1024, 1025, 0, 2049, 1100, 0], [0, 1500, 0, 0, 0, 0, 0]], "forward"),
        a_shape(2, 256, [1100], [[1023, 3073], [1, 0], [2048, 0]], "forward stacked far", "i64"),
    ],
    dtypes=DTYPES,
    problem=problem,
)
BACKWARD = Kernel(
    name="hetero_backward",
    driver="hetero_aggregate.cu",
    function="hetero_aggregate",
    source="csrc/hetero_aggregate/aggregate.cuh:sum_edges",
    shapes=[
        a_shape(1, 1, [1], [1], "backward weights coefficients"),
        a_shape(5, 40, [6, 3], [90, 0, 11], "backward weights coefficients"),
        a_shape(3, 7, [5], [9, 40], "backward weights coefficients", "i64"),
        a_shape(4, 520, [6], [37, 5], "backward weights coefficients"),
        a_shape(3, 265, [6], [37, 5], "backward weights ones", "i64"),
        a_shape(2, 256, [5], [64], "backward weights coefficients"),  # whole passes over columns, and over edges
        a_shape(140, 8, [6], [300], "backward coefficients no out"),  # more rows than threads that add them up
        a_shape(0, 8, [4], [0], "backward weights coefficients"),
        a_shape(4, 0, [3], [6], "backward weights coefficients"),
        a_shape(6, 24, [5], [30], "backward"),
        a_shape(3, 20, [5, 4], [50, 7], "backward weights coefficients far", "i64"),
        a_shape(4, 265, [1025], [[0, 1024, 1090, 1], [2100, 0, 0, 7]], "backward weights coefficients"),
        a_shape(3, 16, [1300], [[1, 1030, 1024]], "backward coefficients far", "i64"),
        a_shape(2, 0, [1300], [[2, 1300]], "backward weights coefficients"),
    ],
    dtypes=DTYPES,
    problem=problem,
)


@kernel_cases(FORWARD)
def test_forward(case: Case) -> None:
    case.check()


@kernel_cases(BACKWARD)
def test_backward(case: Case) -> None:
    case.check()
