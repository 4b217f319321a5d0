"""The raw column sums through NumPy at every instruction-set level, against loops over pairs in float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from tests.kernels import p_laplacian_loops as loops
from tests.kernels import raw_kernels
from tests.kernels.test_cache_retrieval import STORAGE
from tests.kernels.test_p_laplacian import SWITCHES, check
from tests.sparse import linux, sparse_zeros

LEVELS = raw_kernels.levels()
# batch, heads, queries, keys, width: one, odd, several tiles and blocks, a head's usual width, empty.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 4, 6, 5),
    (1, 2, 33, 65, 16),
    (1, 2, 113, 31, 4),
    (1, 1, 50, 40, 64),
    (9, 4, 3, 5, 2),  # as many tasks as heads
    (0, 2, 3, 4, 5),
    (2, 2, 0, 4, 5),
    (2, 2, 3, 0, 5),
    (1, 2, 3, 4, 0),
]
KINDS = ["plain", "causal", "boolean", "additive"]


class Case:
    """Arrays as the kernel reads them, and the truth of the loops."""

    def __init__(self, storage: str, shape: tuple[int, ...], kind: str) -> None:
        batch, heads, queries, keys, width = shape
        random = np.random.default_rng(0)
        store, load = STORAGE[storage]
        self.storage, self.accum = storage, np.float64 if storage == "f64" else np.float32
        self.arrays = {n: store(random.standard_normal((batch, heads, c, width)))
                       for n, c in (("query", queries), ("key", keys))}  # fmt: skip
        self.switches: dict[str, Any] = SWITCHES | {"causal": kind == "causal", "coincidence": 1e-290}
        exact = {n: load(x).astype(np.float64) for n, x in self.arrays.items()}
        seen = random.random((batch, 1, keys, queries)).swapaxes(2, 3) > 0.4
        seen[:, :, 2:3] = False  # a fully masked row
        if kind == "boolean":
            self.arrays["mask"] = np.broadcast_to(seen, (batch, heads, queries, keys))
        if kind == "additive":
            shifts = np.where(seen[:1], random.standard_normal(seen[:1].shape), -np.inf).astype(self.accum)
            self.arrays["mask"] = np.broadcast_to(shifts[:1], (batch, heads, queries, keys))
            self.arrays["key_lengths"] = np.arange(2, 2 + batch).clip(max=keys)
        exact |= {n: self.arrays[n] for n in ("mask", "key_lengths") if n in self.arrays}
        exact |= {f"x_{n}": np.zeros((batch, heads, c, 0)) for n, c in (("query", queries), ("value", keys))}
        exact |= {n: np.ones(heads) for n in ("p", "pull")}
        upstream = random.standard_normal((batch, heads, keys)).astype(self.accum)
        self.upstream = {"grad_sums": upstream}
        self.truth = {"sums": np.zeros((batch, heads, keys)), "lse": np.zeros((batch, heads, queries))}
        self.gradients = {n: np.zeros(exact[n].shape) for n in ("query", "key")}
        for b, h, head in loops.heads_of(exact, self.switches):
            attention, g = head.attention, upstream[b, h].astype(np.float64)
            assert head.lse is not None
            self.truth["sums"][b, h], self.truth["lse"][b, h] = attention.sum(0), head.lse
            of_scores = self.switches["scale"] * attention * (g - (attention @ g)[:, None])
            self.gradients["query"][b, h] = of_scores @ exact["key"][b, h]
            self.gradients["key"][b, h] = of_scores.T @ exact["query"][b, h]

    def forward(self, level: str) -> dict[str, np.ndarray]:
        """Every result, from memory that held NaN."""
        results = {name: np.full(x.shape, np.nan, self.accum) for name, x in self.truth.items()}
        raw_kernels.attention_column_sums(level, self.storage, self.arrays | results, self.switches)
        return results

    def backward(self, level: str, lse: np.ndarray, *unwanted: str) -> dict[str, np.ndarray]:
        grads = {n: np.full(x.shape, np.nan, self.accum) for n, x in self.gradients.items() if n not in unwanted}
        given = self.arrays | self.upstream | {"lse": lse} | {f"grad_{n}": x for n, x in grads.items()}
        raw_kernels.attention_column_sums_backward(level, self.storage, given, self.switches)
        return grads


case_of = functools.cache(Case)
every = pytest.mark.parametrize("level", LEVELS)


@every
@pytest.mark.parametrize("storage", list(STORAGE))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_loops(level: str, storage: str, shape: tuple[int, ...], kind: str) -> None:
    case = case_of(storage, shape, kind)
    results = case.forward(level)
    check(results, case.truth, storage)
    gradients = case.backward(level, results["lse"])
    check(gradients, case.gradients, storage)
    for name in gradients:
        alone = case.backward(level, results["lse"], name)
        assert all(np.array_equal(alone[other], gradients[other]) for other in alone)


@every
def test_threads_do_not_change_a_bit(level: str) -> None:
    case = case_of("f32", SHAPES[3], "plain")
    runs = []
    for threads in (1, 2, 5):
        raw_kernels.set_threads(threads)
        results = case.forward(level)
        runs.append(results | case.backward(level, results["lse"]))
    raw_kernels.set_threads(2)
    for run in runs[1:]:
        assert all(np.array_equal(run[name], runs[0][name]) for name in run)


@linux
def test_offsets_beyond_32_bits() -> None:
    """A few keys of a huge sparse array count, and the results are those of these keys alone."""
    batch, keys, width, seen = 2**13 + 1, 2**8, 2**10, 3
    assert (batch - 1) * keys * width == 2**31
    random = np.random.default_rng(0)

    def rows(count: int) -> np.ndarray:
        return (random.standard_normal((batch, 1, count, width)) / width**0.5).astype(np.float16).view(np.uint16)

    few, many = rows(seen), sparse_zeros((batch, 1, keys, width), np.uint16)
    many[:, :, :seen] = few
    same = {"query": rows(1), "key_lengths": np.full(batch, seen)}
    results = []
    for key in (few, many):
        found = {"sums": np.zeros(key.shape[:3], np.float32), "lse": np.zeros((batch, 1, 1), np.float32)}
        raw_kernels.attention_column_sums(LEVELS[-1], "f16", {**same, "key": key, **found}, SWITCHES)
        upstream = np.ones(key.shape[:3], np.float32)
        upstream[:, :, 0] = 2
        grads = {"grad_query": np.full(same["query"].shape, np.nan, np.float32)}
        given = {**same, "key": key, "lse": found["lse"], "grad_sums": upstream, **grads}
        raw_kernels.attention_column_sums_backward(LEVELS[-1], "f16", given, SWITCHES)
        assert (found["sums"][:, :, seen:] == 0).all()
        results.append({**found, "sums": found["sums"][:, :, :seen], **grads})
    for name, expected in results[0].items():
        np.testing.assert_array_equal(results[1][name], expected, err_msg=name)
