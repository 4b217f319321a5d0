"""The raw kernels through NumPy, at every instruction-set level of this processor: below torch and its binding."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import raw_kernels

LEVELS = raw_kernels.levels()


def to_bf16(matrix: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(matrix, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bf16(payload: np.ndarray) -> np.ndarray:
    return (payload.astype(np.uint32) << 16).view(np.float32)


STORAGE = {
    "f32": (lambda m: m.astype(np.float32), lambda m: m),
    "f64": (lambda m: m, lambda m: m),
    "bf16": (to_bf16, from_bf16),
    "f16": (lambda m: m.astype(np.float16).view(np.uint16), lambda m: m.view(np.float16)),
}


class Case:
    def __init__(self, storage: str, queries: int, entries: int, classes: int, width: int) -> None:
        random = np.random.default_rng(0)
        store, load = STORAGE[storage]

        def rows(count: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
            matrix = random.standard_normal((count, columns))
            matrix /= np.linalg.norm(matrix, axis=1, keepdims=True) + 1e-30
            stored = store(matrix)
            return stored, load(stored).astype(np.float64)

        self.accum = np.float64 if storage == "f64" else np.float32
        self.tolerance = 1e-13 if storage == "f64" else 4e-6  # errors of 1e-15 and 6e-7 were seen
        self.half = storage
        self.queries, self.exact_queries = rows(queries, width)
        self.keys, self.exact_keys = rows(entries, width)
        self.labels = random.integers(0, classes, entries)
        self.classes = classes
        self.order = np.argsort(self.labels, kind="stable")
        self.offsets = np.concatenate([[0], np.cumsum(np.bincount(self.labels, minlength=classes))])
        self.scale = random.uniform(1, 4, queries).astype(self.accum)
        self.center = random.uniform(0.5, 1, queries).astype(self.accum)
        self.text_queries, self.exact_text_queries = rows(queries, width)
        self.text_keys, self.exact_text_keys = rows(classes, width)
        self.ratio = random.uniform(0, 1, queries).astype(self.accum)
        self.own = random.integers(-1, entries, queries)
        self.values = store(random.standard_normal((entries, classes)))
        self.exact_values = load(self.values).astype(np.float64)

    def affinity(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        return np.exp(self.scale[:, None] * (queries @ keys.T - self.center[:, None]))

    def check(self, ours: np.ndarray, truth: np.ndarray) -> None:
        """Relative to the largest element or one: 16-bit inputs are widened exactly."""
        size = np.abs(truth).max(initial=1)
        np.testing.assert_allclose(ours, truth, rtol=0, atol=self.tolerance * size)

    def onehot(self) -> np.ndarray:
        return np.eye(self.classes)[self.labels]


SHAPES = [(1, 1, 1, 1), (3, 50, 7, 33), (37, 45, 5, 300), (65, 1200, 3, 17)]
every = pytest.mark.parametrize("level", LEVELS)
stored = pytest.mark.parametrize("storage", list(STORAGE))
shaped = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every
@stored
@shaped
def test_two_streams(level: str, storage: str, shape: tuple[int, ...]) -> None:
    case = Case(storage, *shape)
    scores, disagreement, *_ = raw_kernels.cache_retrieval(
        level,
        case.half,
        case.queries,
        case.keys,
        case.scale,
        case.center,
        case.order,
        case.offsets,
        case.text_queries,
        case.text_keys,
        case.ratio,
        True,
        case.own,
        True,
    )
    image = case.affinity(case.exact_queries, case.exact_keys)
    text = case.affinity(case.exact_text_queries, case.exact_text_keys)[:, case.labels]
    keep = np.arange(shape[1]) != case.own[:, None]
    mixed = (case.ratio[:, None] * image + (1 - case.ratio[:, None]) * text) * keep
    gap = (np.abs(image - text) * keep).sum(1) / np.maximum(keep.sum(1), 1)
    case.check(scores, mixed @ case.onehot())
    case.check(disagreement, gap)


@every
@stored
@shaped
def test_backward(level: str, storage: str, shape: tuple[int, ...]) -> None:
    case = Case(storage, *shape)
    random = np.random.default_rng(1)
    grad = random.standard_normal((shape[0], shape[2])).astype(case.accum)
    counts = random.integers(1, 4, shape[1]).astype(case.accum)
    results = raw_kernels.cache_retrieval_backward(
        level,
        case.half,
        grad,
        case.queries,
        case.keys,
        case.scale,
        case.center,
        case.labels,
        case.ratio,
        counts,
        case.own,
    )
    distance = case.exact_queries @ case.exact_keys.T - case.center[:, None]
    kept = counts - (np.arange(shape[1]) == case.own[:, None])
    g = grad.astype(np.float64)[:, case.labels] * kept * np.exp(case.scale[:, None] * distance)
    share = case.ratio.astype(np.float64)
    w = g * share[:, None] * case.scale[:, None]
    expected = [
        w @ case.exact_keys,
        w.T @ case.exact_queries,
        share * (g * distance).sum(1),
        -w.sum(1),
        g.sum(1),
    ]
    for ours, truth in zip(results, expected, strict=True):
        case.check(ours, truth)


@every
@stored
@shaped
def test_values(level: str, storage: str, shape: tuple[int, ...]) -> None:
    case = Case(storage, *shape)
    grad = np.random.default_rng(1).standard_normal((shape[0], shape[2])).astype(case.accum)
    arguments = (case.queries, case.keys, case.scale, case.center, case.values, case.own)
    scores = raw_kernels.cache_retrieval_dense(level, case.half, *arguments)
    results = raw_kernels.cache_retrieval_dense_backward(level, case.half, grad, *arguments)
    kept = np.arange(shape[1]) != case.own[:, None]
    affinity = case.affinity(case.exact_queries, case.exact_keys) * kept
    distance = case.exact_queries @ case.exact_keys.T - case.center[:, None]
    g = grad.astype(np.float64) @ case.exact_values.T * affinity
    w = g * case.scale[:, None]
    expected = [
        affinity @ case.exact_values,
        w @ case.exact_keys,
        w.T @ case.exact_queries,
        affinity.T @ grad,
        (g * distance).sum(1),
        -w.sum(1),
    ]
    for ours, truth in zip((scores, *results), expected, strict=True):
        case.check(ours, truth)


@every
@stored
@shaped
def test_kept_similarities_serve_the_backward(level: str, storage: str, shape: tuple[int, ...]) -> None:
    case = Case(storage, *shape)
    streams = (case.queries, case.keys, case.scale, case.center)
    text = (case.queries, case.keys[::-1].copy(), case.ratio)
    *_, image, reverse = raw_kernels.cache_retrieval(
        level, case.half, *streams, case.order, case.offsets, *text, own_entry=case.own, store_similarities=True
    )
    expected = case.exact_keys @ case.exact_queries.T
    case.check(image, expected)
    case.check(reverse, expected[::-1])
    grad = np.random.default_rng(1).standard_normal((shape[0], shape[2])).astype(case.accum)
    arguments = (level, case.half, grad, *streams, case.labels, case.ratio, None, case.own)
    kept = raw_kernels.cache_retrieval_backward(*arguments, image)
    recomputed = raw_kernels.cache_retrieval_backward(*arguments)
    for ours, truth in zip(kept, recomputed, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-12, atol=1e-12)  # dot products or tiles: f64 may differ


@every
@stored
def test_multi_beta(level: str, storage: str) -> None:
    case = Case(storage, 21, 90, 6, 40)
    betas = np.array([0.5, 3.0, 8.0], case.accum)
    scores = raw_kernels.cache_retrieval_multi_beta(
        level, case.half, case.queries, case.keys, case.order, case.offsets, betas
    )
    for ours, beta in zip(scores, betas, strict=True):
        expected = np.exp(beta * (case.exact_queries @ case.exact_keys.T - 1)) @ case.onehot()
        case.check(ours, expected)


@every
def test_threads_do_not_change_a_bit(level: str) -> None:
    case = Case("f32", 70, 1300, 4, 19)
    results = []
    for threads in (1, 2, 5):
        raw_kernels.set_threads(threads)
        results.append(
            raw_kernels.cache_retrieval(
                level, "f32", case.queries, case.keys, case.scale, case.center, case.order, case.offsets
            )[0]
        )
    raw_kernels.set_threads(2)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
