"""The raw kernels through NumPy, at every instruction-set level of this processor, and at those that multiply bfloat16
with their instructions emulated (``emulated_bf16.h``): below torch and its binding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.kernels import emulated_kernels, raw_kernels


class Kernels:
    """The functions of a module at a level."""

    def __init__(self, module: ModuleType, level: str) -> None:
        self.module, self.level = module, level
        self.name = level if module is raw_kernels else f"{level} emulated"

    def __getattr__(self, function: str) -> Callable[..., Any]:
        return partial(getattr(self.module, function), self.level)

    def rounds(self, storage: str) -> bool:
        """Whether weights of that storage are rounded for products."""
        taken = {"avx512_bf16": ("bf16", "f32 as one"), "amx": ("bf16", "f32 as one", "f32 as two")}
        return storage in taken.get(self.level, ())


EMULATED = [Kernels(emulated_kernels, level) for level in ("avx512_bf16", "amx")]
EVERY = [Kernels(raw_kernels, level) for level in raw_kernels.levels()] + EMULATED


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
STORED = {**STORAGE, "f32 as two": STORAGE["f32"], "f32 as one": STORAGE["f32"]}  # ways of this operator alone
# Of the largest element. 16-bit inputs are widened exactly, where no other is said; errors of 1e-15 and 6e-7 were seen.
TOLERANCE = {"f64": 1e-13}
ROUNDED_INPUTS = {"f32 as two": 2e-5, "f32 as one": 2e-2}
ROUNDED_WEIGHTS = {"f32 as two": 5e-5, "f32 as one": 2e-2, "bf16": 5e-3}


class Case:
    def __init__(self, storage: str, queries: int, entries: int, classes: int, width: int) -> None:
        random = np.random.default_rng(0)
        store, load = STORED[storage]

        def rows(count: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
            matrix = random.standard_normal((count, columns))
            matrix /= np.linalg.norm(matrix, axis=1, keepdims=True) + 1e-30
            stored = store(matrix)
            return stored, load(stored).astype(np.float64)

        self.accum = np.float64 if storage == "f64" else np.float32
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

    def check(self, kernels: Kernels, ours: np.ndarray, truth: np.ndarray, weights: bool = False) -> None:
        """Relative to the largest element or one. ``weights``: of a sum that weighs rows by affinities."""
        rounded = ROUNDED_WEIGHTS if weights else ROUNDED_INPUTS
        taken = rounded if kernels.rounds(self.half) else TOLERANCE
        size = np.abs(truth).max(initial=1)
        np.testing.assert_allclose(ours, truth, rtol=0, atol=taken.get(self.half, 4e-6) * size)

    def onehot(self) -> np.ndarray:
        return np.eye(self.classes)[self.labels]


SHAPES = [(1, 1, 1, 1), (3, 50, 7, 33), (37, 45, 5, 300), (65, 1200, 3, 17)]
# Beyond the blocks of queries, of keys and of the depth.
LARGE = [(1030, 75, 4, 40), (20, 2500, 5, 70), (9, 40, 3, 1100)]
every = pytest.mark.parametrize("kernels", EVERY, ids=lambda kernels: kernels.name)
stored = pytest.mark.parametrize("storage", list(STORED))
shaped = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every
@stored
@shaped
def test_two_streams(kernels: Kernels, storage: str, shape: tuple[int, ...]) -> None:
    case = Case(storage, *shape)
    scores, disagreement, *_ = kernels.cache_retrieval(
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
    case.check(kernels, scores, mixed @ case.onehot())
    case.check(kernels, disagreement, gap)


@every
@stored
@shaped
def test_backward(kernels: Kernels, storage: str, shape: tuple[int, ...]) -> None:
    case = Case(storage, *shape)
    random = np.random.default_rng(1)
    grad = random.standard_normal((shape[0], shape[2])).astype(case.accum)
    counts = random.integers(1, 4, shape[1]).astype(case.accum)
    results = kernels.cache_retrieval_backward(
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
        case.check(kernels, ours, truth, weights=True)


@every
@stored
@shaped
def test_values(kernels: Kernels, storage: str, shape: tuple[int, ...]) -> None:
    case = Case(storage, *shape)
    grad = np.random.default_rng(1).standard_normal((shape[0], shape[2])).astype(case.accum)
    arguments = (case.queries, case.keys, case.scale, case.center, case.values, case.own)
    scores = kernels.cache_retrieval_dense(case.half, *arguments)
    results = kernels.cache_retrieval_dense_backward(case.half, grad, *arguments)
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
        case.check(kernels, ours, truth, weights=True)


@every
@stored
@shaped
def test_kept_similarities_serve_the_backward(kernels: Kernels, storage: str, shape: tuple[int, ...]) -> None:
    case = Case(storage, *shape)
    streams = (case.queries, case.keys, case.scale, case.center)
    text = (case.queries, case.keys[::-1].copy(), case.ratio)
    *_, image, reverse = kernels.cache_retrieval(
        case.half, *streams, case.order, case.offsets, *text, own_entry=case.own, store_similarities=True
    )
    expected = case.exact_keys @ case.exact_queries.T
    case.check(kernels, image, expected)
    case.check(kernels, reverse, expected[::-1])
    grad = np.random.default_rng(1).standard_normal((shape[0], shape[2])).astype(case.accum)
    arguments = (case.half, grad, *streams, case.labels, case.ratio, None, case.own)
    kept = kernels.cache_retrieval_backward(*arguments, image)
    recomputed = kernels.cache_retrieval_backward(*arguments)
    for ours, truth in zip(kept, recomputed, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-12, atol=1e-12)  # dot products or tiles: f64 may differ


@every
@pytest.mark.parametrize("shape", [*SHAPES, *LARGE], ids=str)
@pytest.mark.parametrize("storage", ["bf16", "f16", "f32"])
def test_narrow_gradients_are_the_wide_ones_rounded(kernels: Kernels, storage: str, shape: tuple[int, ...]) -> None:
    if kernels in EMULATED and (storage != "bf16" or shape == LARGE[1]):
        pytest.skip("the same as at the baseline, or slow")
    case = Case(storage, *shape)
    grad = np.random.default_rng(1).standard_normal((shape[0], shape[2])).astype(case.accum)
    arguments = (case.half, grad, case.queries, case.keys, case.scale, case.center, case.labels)
    wide = kernels.cache_retrieval_backward(*arguments)
    narrow = kernels.cache_retrieval_backward(*arguments, narrow=True)
    for ours, sums in zip(narrow[:2], wide[:2], strict=True):
        if storage == "bf16":
            bits = sums.view(np.uint32)
            sums = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        elif storage == "f16":
            sums = sums.astype(np.float16).view(np.uint16)
        assert np.array_equal(ours, sums)


@every
@pytest.mark.parametrize("shape", [*SHAPES, LARGE[0]], ids=str)
def test_kept_affinities_serve_the_backward(kernels: Kernels, shape: tuple[int, ...]) -> None:
    case = Case("bf16", *shape)
    streams = (case.queries, case.keys, case.scale, case.center)
    text = (case.queries, case.keys[::-1].copy(), case.ratio)
    *_, image, reverse = kernels.cache_retrieval(
        "bf16",
        *streams,
        case.order,
        case.offsets,
        *text,
        own_entry=case.own,
        mask_own_scores=True,
        store_similarities=True,
        as_affinities=True,
    )
    affinity = case.affinity(case.exact_queries, case.exact_keys).T
    for kept, truth in ((image, affinity), (reverse, affinity[::-1])):
        ours = (kept.astype(np.uint32) << 15).view(np.float32)
        np.testing.assert_allclose(ours, truth, rtol=2.0**-9 + 1e-4, atol=0)
    grad = np.random.default_rng(1).standard_normal((shape[0], shape[2])).astype(case.accum)
    arguments = ("bf16", grad, *streams, case.labels, case.ratio, None, case.own)
    kept = kernels.cache_retrieval_backward(*arguments, image)
    recomputed = kernels.cache_retrieval_backward(*arguments)
    for ours, truth in zip(kept[:2], recomputed[:2], strict=True):
        np.testing.assert_allclose(ours, truth, rtol=0, atol=5e-3 * np.abs(truth).max(initial=1))


@every
@stored
def test_multi_beta(kernels: Kernels, storage: str) -> None:
    case = Case(storage, 21, 90, 6, 40)
    betas = np.array([0.5, 3.0, 8.0], case.accum)
    scores = kernels.cache_retrieval_multi_beta(case.half, case.queries, case.keys, case.order, case.offsets, betas)
    for ours, beta in zip(scores, betas, strict=True):
        expected = np.exp(beta * (case.exact_queries @ case.exact_keys.T - 1)) @ case.onehot()
        case.check(kernels, ours, expected)


@every
def test_threads_do_not_change_a_bit(kernels: Kernels) -> None:
    case = Case("f32", 70, 1300, 4, 19)
    results = []
    for threads in (1, 2, 5):
        kernels.module.set_threads(threads)
        results.append(
            kernels.cache_retrieval("f32", case.queries, case.keys, case.scale, case.center, case.order, case.offsets)[
                0
            ]
        )
    kernels.module.set_threads(2)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


@pytest.mark.parametrize("kernels", EMULATED, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("storage", ["bf16", "f32 as two", "f32 as one"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_beyond_every_block(kernels: Kernels, storage: str, shape: tuple[int, ...]) -> None:
    test_two_streams(kernels, storage, shape)
    test_backward(kernels, storage, shape)
    test_values(kernels, storage, shape)


def scores_of(kernels: Kernels, case: Case, storage: str, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    return kernels.cache_retrieval(storage, queries, keys, case.scale, case.center, case.order, case.offsets)[0]


@every
@pytest.mark.parametrize("storage", ["f32 as two", "f32 as one"])
def test_float32_is_rounded_only_where_a_level_gains(kernels: Kernels, storage: str) -> None:
    case = Case("f32", 37, 45, 5, 300)
    exact, rounded = (scores_of(kernels, case, how, case.queries, case.keys) for how in ("f32", storage))
    assert np.array_equal(exact, rounded) != kernels.rounds(storage)


@every
@stored
def test_what_is_not_finite_comes_out_as_from_the_baseline(kernels: Kernels, storage: str) -> None:
    """Split into two, infinity would leave a rest of zero, whose product with infinity is NaN."""
    case = Case(storage, 40, 60, 7, 70)
    numbers = np.array([np.inf, -np.inf, np.nan, 3e38, 1e30, -3e38], np.float32)
    store, _ = STORED[storage]
    with np.errstate(over="ignore", invalid="ignore"):
        stored_numbers = store(numbers.astype(np.float64))
    baseline = Kernels(raw_kernels, "baseline")
    grad = np.random.default_rng(1).standard_normal((40, 7)).astype(case.accum)
    for position, number in enumerate(stored_numbers):
        queries, keys = case.queries.copy(), case.keys.copy()
        (queries if position % 2 else keys)[position, 3 * position] = number
        results = []
        for each in (kernels, baseline):
            arguments = (queries, keys, case.scale, case.center)
            scores = scores_of(each, case, storage, queries, keys)
            backward = each.cache_retrieval_backward(storage, grad, *arguments, case.labels)
            results.append([scores, *backward])
        for ours, truth in zip(*results, strict=True):
            for test in (np.isnan, np.isposinf, np.isneginf):
                assert np.array_equal(test(ours), test(truth))


HARDWARE = [kernels for kernels in EMULATED if kernels.level in raw_kernels.levels()]


@pytest.mark.skipif(not HARDWARE, reason="this processor multiplies no bfloat16")
@pytest.mark.parametrize("storage", ["bf16", "f32 as two", "f32 as one"])
def test_the_emulation_is_the_hardware_to_the_last_bit(storage: str) -> None:
    """In products with subnormal numbers, infinities and NaN too: at the levels that this processor has. Split numbers
    that are not finite go the exact way."""
    case = Case(storage, 40, 75, 3, 700)
    store, _ = STORED[storage]
    case.queries[:, ::7] = store(np.array([[1e-39]]))
    case.keys[:, 1::7] = store(np.array([[3e-38]]))
    case.queries[:, 1::7] = store(np.array([[1.5e-38]]))
    if storage == "bf16":
        case.keys[:5, 0] = store(np.array([[np.inf, np.nan, -np.inf, 2e-38, 1.0]]))[0]
    arguments = (case.queries, case.keys, case.scale, case.center, case.order, case.offsets)
    for kernels in HARDWARE:
        if kernels.rounds(storage):
            both = (kernels, Kernels(raw_kernels, kernels.level))
            ours, theirs = (each.cache_retrieval(storage, *arguments, store_similarities=True)[2] for each in both)
            assert np.array_equal(ours, theirs, equal_nan=True)
