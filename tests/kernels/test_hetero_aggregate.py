"""The raw aggregation kernels through NumPy, at every instruction-set level of this processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels import raw_kernels
from tests.kernels.test_cache_retrieval import STORAGE

LEVELS = raw_kernels.levels()
EPSILON = {"f32": 0.0, "f64": 0.0, "bf16": 2.0**-7, "f16": 2.0**-10}

# rows, rows of each matrix, edges of each relation, width: direct reading, packed reading, several slices, tails.
SHAPES = [
    (1, [1], [1], 1),
    (9, [600], [40], 200),
    (40, [30, 20], [900, 0, 700], 131),
    (300, [1200], [20000], 500),
]

Index = type[np.signedinteger[Any]]


class Case:
    def __init__(self, storage: str, shape: tuple, index: Index, permuted: bool) -> None:
        rows, sizes, edges, width = shape
        random = np.random.default_rng(0)
        store, self.load = STORAGE[storage]
        self.accum = np.float64 if storage == "f64" else np.float32
        self.rows, self.width, self.half = rows, width, storage
        self.matrices = [store(random.standard_normal((n, width))) for n in sizes]
        self.own = store(random.standard_normal((rows, width)))
        self.relations, self.exact = [], []
        for r, count in enumerate(edges):
            owners = np.sort(random.integers(0, max(rows - 1, 1), count))
            offsets = np.searchsorted(owners, np.arange(rows + 1)).astype(np.int64)
            columns = random.integers(0, sizes[r % len(sizes)], count).astype(index)
            places = random.permutation(count).astype(index) if permuted else None
            weights = None if r == 1 else random.standard_normal(count).astype(self.accum)
            coefficient = random.standard_normal(1).astype(self.accum)
            self.relations.append((r % len(sizes), offsets, columns, places, weights, coefficient))
            self.exact.append((owners, np.arange(count) if places is None else places))

    def expected(self, r: int) -> tuple[np.ndarray, ...]:
        """The relation's sum and the gradients of its weights and coefficient, each with its sum of magnitudes."""
        m, _, columns, _, weights, coefficient = self.relations[r]
        owners, places = self.exact[r]
        read = self.load(self.matrices[m])[columns].astype(np.float64)
        own = self.load(self.own).astype(np.float64)
        w = np.ones(len(columns)) if weights is None else weights.astype(np.float64)[places]
        out, size = np.zeros((self.rows, self.width)), np.zeros((self.rows, self.width))
        np.add.at(out, owners, w[:, None] * read)
        np.add.at(size, owners, np.abs(w[:, None] * read))
        c = float(coefficient[0])
        dots, magnitude = np.zeros(len(columns)), np.zeros(len(columns))
        dots[places] = c * (own[owners] * read).sum(-1)
        magnitude[places] = abs(c) * np.abs(own[owners] * read).sum(-1)
        of_coefficient = np.array([(own * out).sum()]), np.array([(np.abs(own) * size).sum()])
        return c * out, abs(c) * size, dots, magnitude, *of_coefficient


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("storage", list(STORAGE))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("index", "permuted", "stacked"), [(np.int32, True, False), (np.int64, False, True)])
def test_sums_and_gradients(
    level: str, storage: str, shape: tuple, index: Index, permuted: bool, stacked: bool
) -> None:
    case = Case(storage, shape, index, permuted)
    out, gradients = raw_kernels.hetero_aggregate(level, storage, case.matrices, case.relations, stacked, case.own)
    expected = [case.expected(r) for r in range(len(case.relations))]
    small = 1e-13 if storage == "f64" else 2e-6
    for r, (_, _, dots, magnitude, of_coefficient, size) in enumerate(expected):
        assert (np.abs(gradients[2 * r] - dots) <= small * magnitude).all()
        assert (np.abs(gradients[2 * r + 1] - of_coefficient) <= small * size).all()
    exact = np.array([part[0] for part in expected])
    size = np.array([part[1] for part in expected])
    if not stacked:
        exact, size = exact.sum(0), size.sum(0)
    error = np.abs(case.load(out).astype(np.float64) - exact)
    assert (error <= small * size + EPSILON[storage] / 2 * np.abs(exact) + (2.0**-25 if storage == "f16" else 0)).all()


@pytest.mark.parametrize("level", LEVELS)
def test_threads_do_not_change_a_bit(level: str) -> None:
    case = Case("f32", SHAPES[2], np.int32, permuted=True)
    results = []
    for threads in (1, 2, 5):
        raw_kernels.set_threads(threads)
        results.append(raw_kernels.hetero_aggregate(level, "f32", case.matrices, case.relations, False, case.own))
    raw_kernels.set_threads(2)
    for out, gradients in results[1:]:
        assert np.array_equal(out, results[0][0])
        assert all(np.array_equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("storage", ["bf16", "f16"])
def test_results_are_rounded_to_the_nearest(level: str, storage: str) -> None:
    """Ties to even, denormals, the largest number, overflow and NaN: copied through an edge of weight w."""
    store, load = STORAGE[storage]
    one = store(np.ones((1, 1)))
    values = [
        1 + 2.0**-9,
        1 + 3 * 2.0**-9,
        1 + 2.0**-11,
        1 + 3 * 2.0**-11,
        65519.0,
        65520.0,
        3e38,
        2.0**-25,
        3 * 2.0**-26,
    ]
    values += [6e-8, 1e-6, -1e-7, 2.0**-14 - 2.0**-26, np.nan, -np.inf, 0.0, 1e-41]
    for value in np.array(values, np.float32):
        relation = (0, np.array([0, 1]), np.zeros(1, np.int32), None, np.array([value]), np.ones(1, np.float32))
        out, _ = raw_kernels.hetero_aggregate(level, storage, [one], [relation])
        with np.errstate(over="ignore"):
            if storage == "f16":
                expected = np.float16(value)
            else:
                bits = int(np.float32(value).view(np.uint32))
                bits = bits if np.isnan(value) else bits + 0x7FFF + (bits >> 16 & 1)
                expected = np.uint32(bits >> 16 << 16).view(np.float32)
        np.testing.assert_array_equal(load(out)[0, 0], expected, err_msg=str(value))
