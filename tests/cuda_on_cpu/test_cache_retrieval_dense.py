"""The CUDA kernel of cache retrieval with values on the CPU, against the formula in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .harness.case import Case, Kernel, Problem, kernel_cases
from .harness.numbers import EPSILON, accumulation, decode, encode, poison
from .test_cache_retrieval import DTYPES, StreamData, codes, own_rows, tolerance


def step_of(dtype: str) -> float:
    """Relative: weights and gradients are rounded to tf32 on tensor cores."""
    return tolerance(dtype) + (0 if dtype in ("f32", "f64") else EPSILON["tf32"])


class Data:
    """Inputs of both passes, and their affinities."""

    def __init__(self, shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> None:
        b, n, c, d = (shape[k] for k in ("b", "n", "c", "d"))
        self.stream = StreamData(rng, b, n, d, dtype, shape["how"])
        self.values = encode(rng.standard_normal((n, c)), dtype)
        own = own_rows(rng, b, n) if "own" in shape["how"] else None
        self.kept = np.ones((b, n)) if own is None else (np.arange(n) != own[:, None]).astype(float)
        self.affinity = self.stream.affinity * self.kept
        self.buffers: dict[str, np.ndarray | None] = {
            **self.stream.buffers("stream"),
            "values": self.values,
            "own": own,
        }
        self.exact_values = decode(self.values, dtype)
        self.sizes = [*codes(dtype), b, n, c, d, int("single" in shape["how"]), self.stream.scale.bits()]


def forward_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    data = Data(shape, dtype, rng)
    scores = data.affinity @ data.exact_values
    bound = step_of(dtype) * (data.affinity @ np.abs(data.exact_values))
    buffers = data.buffers | {"scores": poison(scores.shape, accumulation(dtype))}
    return Problem(data.sizes, buffers, {"scores": scores}, 0.0, {"scores": bound})


def backward_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    b, c, how = (shape[k] for k in ("b", "c", "how"))
    t = accumulation(dtype)
    data = Data(shape, dtype, rng)
    grad_scores = rng.standard_normal((b, c)).astype(t)
    grad, scale = grad_scores.astype(np.float64), data.stream.scale.values[:, None]
    queries, keys = decode(data.stream.queries, dtype), decode(data.stream.keys, dtype)
    upstream = grad @ data.exact_values.T
    g, offset = upstream * data.affinity, data.stream.offset
    # Signs differ, so sums cancel: bounds are on the sums of magnitudes.
    most = (np.abs(grad) @ np.abs(data.exact_values).T) * data.affinity
    step, expected, atol = step_of(dtype), {}, {}
    buffers = data.buffers | {"grad_scores": grad_scores}
    matrices = {
        "grad_queries": (scale * g @ keys, scale * most @ np.abs(keys)),
        "grad_keys": ((scale * g).T @ queries, (scale * most).T @ np.abs(queries)),
        "grad_values": (data.affinity.T @ grad, data.affinity.T @ np.abs(grad)),
    }
    for name, (matrix, bound) in matrices.items():
        wanted = "only" not in how or "matrices only" in how or f"{name.removeprefix('grad_')} only" in how
        buffers[name] = poison(matrix.shape, t) if wanted else None
        if wanted:
            expected[name], atol[name] = matrix, 3 * step * bound
    rows = {
        "grad_scale": ((g * offset).sum(-1), (most * (np.abs(offset) + 1)).sum(-1)),
        "grad_center": (-(scale * g).sum(-1), (scale * most).sum(-1)),
        "grad_weight": (g.sum(-1), most.sum(-1)),
    }
    rows_wanted = not any(f"{what} only" in how for what in ("keys", "values", "matrices"))
    for name, (vector, bound) in rows.items():
        buffers[name] = poison((b,), t) if rows_wanted else None
        if rows_wanted:
            expected[name], atol[name] = vector, 3 * step * bound
    return Problem(data.sizes, buffers, expected, 0.0, atol)


def sizes(b: int, n: int, c: int, d: int, how: str = "plain") -> dict[str, Any]:
    return {"b": b, "n": n, "c": c, "d": d, "how": how}


FORWARD = Kernel(
    name="cache_dense_forward",
    driver="cache_retrieval_dense.cu",
    function="dense_forward",
    source="csrc/cache_retrieval_dense/dense.cuh:dense_kernel",
    shapes=[
        sizes(1, 1, 1, 1),
        sizes(3, 5, 2, 7, "own"),  # rows that no 16-byte access may touch
        sizes(0, 4, 2, 8),
        sizes(5, 0, 3, 8),
        sizes(5, 4, 0, 8),
        sizes(4, 6, 3, 0),
        sizes(64, 64, 32, 32),  # one full tile, full steps
        sizes(65, 70, 40, 48, "own"),
        sizes(9, 200, 33, 17),  # keys split, and summed
        sizes(9, 300, 3, 20, "number"),  # several tiles a part
        sizes(9, 10, 3, 20, "single"),
    ],
    dtypes=DTYPES,
    problem=forward_problem,
)

BACKWARD = Kernel(
    name="cache_dense_backward",
    driver="cache_retrieval_dense.cu",
    function="dense_backward",
    source="csrc/cache_retrieval_dense/dense.cuh:dense_kernel",
    shapes=[
        sizes(1, 1, 1, 1),
        sizes(3, 5, 2, 7, "own"),
        sizes(0, 4, 2, 8),
        sizes(5, 0, 3, 8),
        sizes(5, 4, 0, 8),
        sizes(64, 64, 32, 32),
        sizes(65, 70, 40, 48, "own"),
        sizes(9, 200, 33, 17),  # the other side split, and summed
        sizes(130, 3, 20, 40),
        sizes(9, 300, 3, 20, "number own"),  # several tiles a part: results are added up
        sizes(9, 10, 3, 20, "single"),
        sizes(6, 70, 24, 24, "matrices only"),
        sizes(6, 10, 24, 24, "queries only"),
        sizes(6, 10, 24, 24, "keys only"),
        sizes(6, 70, 24, 24, "values only own"),
        sizes(6, 10, 4, 24, "rows only"),
    ],
    dtypes=DTYPES,
    problem=backward_problem,
)


@kernel_cases(FORWARD)
def test_forward(case: Case) -> None:
    case.check()


@kernel_cases(BACKWARD)
def test_backward(case: Case) -> None:
    case.check()
