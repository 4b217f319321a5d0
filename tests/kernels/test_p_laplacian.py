"""The raw p-Laplacian kernels through NumPy at every instruction-set level, against loops over pairs in float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from tests.kernels import p_laplacian_loops as loops
from tests.kernels import raw_kernels
from tests.kernels.test_cache_retrieval import STORAGE

LEVELS = raw_kernels.levels()
SWITCHES = {"scale": 0.4, "causal": False, "residual": True, "drop_diagonal": False, "released": False, "eps": 1e-3}

# batch, heads, queries, keys, width, value width, features: one, odd, tiles and one more, several blocks, empty.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 4, 6, 5, 7, 3),
    (1, 2, 33, 65, 16, 5, 9),
    (1, 1, 3, 100, 33, 40, 24),
    (1, 2, 113, 31, 4, 3, 34),
    (0, 2, 3, 4, 5, 6, 7),
    (2, 2, 0, 4, 5, 6, 7),
    (2, 2, 3, 0, 5, 6, 7),
    (1, 2, 3, 4, 0, 0, 2),
    (1, 2, 3, 4, 5, 6, 0),
]
SCORES = ["plain", "causal", "boolean", "additive", "no value", "coincident"]
PROBABILITIES = ["plain", "released", "diagonal", "coincident"]


class Case:
    """Arrays as the kernel reads them, the same numbers in float64, and the truth of the loops."""

    def __init__(self, storage: str, shape: tuple[int, ...], entry: str, kind: str) -> None:
        batch, heads, queries, keys, width, value_width, features = shape
        random = np.random.default_rng(0)
        store, load = STORAGE[storage]
        self.storage, self.accum = storage, np.float64 if storage == "f64" else np.float32
        sizes = {"x_query": (queries, features), "x_value": (keys, features)}
        if entry == "scores":
            sizes |= {"query": (queries, width), "key": (keys, width), "value": (keys, value_width)}
        else:
            sizes |= {"attention": (queries, keys)}
        if kind == "no value":
            del sizes["value"]
        values = {name: random.standard_normal((batch, heads, *size)) for name, size in sizes.items()}
        if entry == "attention":
            values["attention"] = np.exp(values["attention"])
            values["attention"] /= values["attention"].sum(-1, keepdims=True)
            values["attention"][..., ::5] = 0
            values["attention"][:, :, 1:2] = 0  # a row without edges
        if kind == "coincident" and min(queries, keys) > 2:
            values["x_value"][:, :, 2] = values["x_query"][:, :, 1]
        stored = {name: store(x) for name, x in values.items()}
        self.switches: dict[str, Any] = SWITCHES | {"coincidence": 1e-290 if storage == "f64" else 1e-30}
        self.switches |= {
            "causal": {"causal": True},
            "additive": {"residual": False},
            "no value": {"drop_diagonal": True},
            "released": {"released": True, "residual": False},
            "diagonal": {"drop_diagonal": True},
        }.get(kind, {})
        p = np.array([1.25, 2.0, 3.0])[:heads]
        stored |= {"p": p.astype(self.accum), "pull": np.array([0.3, 0.0, 0.2])[:heads].astype(self.accum)}
        seen = random.random((batch, 1, keys, queries)).swapaxes(2, 3) > 0.4  # its last stride is not one
        seen[:, :, 2:3] = False  # a fully masked row
        if kind == "boolean":
            stored["mask"] = np.broadcast_to(seen, (batch, heads, queries, keys))
        if kind == "additive":
            shifts = np.where(seen[:1], random.standard_normal(seen[:1].shape), -np.inf).astype(self.accum)
            stored["mask"] = np.broadcast_to(shifts[:1], (batch, heads, queries, keys))
            stored["key_lengths"] = np.arange(2, 2 + batch).clip(max=keys)
        self.arrays: dict[str, np.ndarray] = stored
        same = ("p", "pull", "mask", "key_lengths")
        self.exact = {n: x if x.dtype.kind in "bi" else _wide(x if n in same else load(x)) for n, x in stored.items()}
        self.results = loops.forward(self.exact, self.switches)
        grads = {f"grad_{name}": random.standard_normal(x.shape) for name, x in self.results.items()}
        self.upstream = {name: grad.astype(self.accum) for name, grad in grads.items() if name != "grad_row_sum"}
        wide = {name: _wide(grad) for name, grad in self.upstream.items()}
        self.gradients = loops.backward(self.exact, self.switches, wide)

    def forward(self, level: str) -> dict[str, np.ndarray]:
        """Every result, from memory that held NaN."""
        results = {name: np.full(x.shape, np.nan, self.accum) for name, x in self.results.items()}
        raw_kernels.p_laplacian(level, self.storage, self.arrays | results, self.switches)
        return results

    def backward(self, level: str, results: dict[str, np.ndarray], *unwanted: str) -> dict[str, np.ndarray]:
        names = [name for name in self.gradients if name not in unwanted]
        grads = {f"grad_{name}": np.full(self.gradients[name].shape, np.nan, self.accum) for name in names}
        arrays = self.arrays | results | self.upstream | grads
        raw_kernels.p_laplacian_backward(level, self.storage, arrays, self.switches)
        return {name.removeprefix("grad_"): x for name, x in grads.items()}


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


case_of = functools.cache(Case)
every = pytest.mark.parametrize("level", LEVELS)
stored = pytest.mark.parametrize("storage", list(STORAGE))
shaped = pytest.mark.parametrize("shape", SHAPES, ids=str)


def check(ours: dict[str, np.ndarray], truth: dict[str, np.ndarray], storage: str) -> None:
    """Equal, relative to the largest element of each array or one: 16-bit inputs are widened exactly."""
    assert ours.keys() == truth.keys()
    small = 1e-12 if storage == "f64" else 1e-5
    for name, x in ours.items():
        finite = truth[name][np.isfinite(truth[name])]
        size = np.abs(finite).max(initial=1)
        np.testing.assert_allclose(x, truth[name], rtol=0, atol=small * size, err_msg=name)


@every
@stored
@shaped
@pytest.mark.parametrize("kind", SCORES)
def test_from_scores(level: str, storage: str, shape: tuple[int, ...], kind: str) -> None:
    case = case_of(storage, shape, "scores", kind)
    results = case.forward(level)
    check(results, case.results, storage)
    check(case.backward(level, results), case.gradients, storage)


@every
@stored
@pytest.mark.parametrize(
    ("shape", "kind"),
    [(s, k) for s in SHAPES for k in PROBABILITIES if s[-1] or k != "released"],  # Q is 0 without features
    ids=str,
)
def test_from_probabilities(level: str, storage: str, shape: tuple[int, ...], kind: str) -> None:
    case = case_of(storage, shape, "attention", kind)
    results = case.forward(level)
    check(results, case.results, storage)
    check(case.backward(level, results), case.gradients, storage)


@every
@pytest.mark.parametrize(("entry", "kind"), [("scores", "causal"), ("attention", "plain"), ("attention", "released")])
def test_gradients_that_are_not_wanted_change_no_other(level: str, entry: str, kind: str) -> None:
    case = case_of("f32", SHAPES[4], entry, kind)
    results = case.forward(level)
    full = case.backward(level, results)
    for name in set(full) - {"p", "pull"}:
        rest = case.backward(level, results, name)
        assert all(np.array_equal(rest[other], full[other]) for other in rest), name


@every
@pytest.mark.parametrize("entry", ["scores", "attention"])
def test_threads_do_not_change_a_bit(level: str, entry: str) -> None:
    case = case_of("f32", SHAPES[4], entry, "plain")
    runs = []
    for threads in (1, 2, 5):
        raw_kernels.set_threads(threads)
        results = case.forward(level)
        runs.append(results | case.backward(level, results))
    raw_kernels.set_threads(2)
    for run in runs[1:]:
        assert all(np.array_equal(run[name], runs[0][name]) for name in run)


@pytest.mark.parametrize(
    ("entry", "kind"), [("scores", kind) for kind in SCORES] + [("attention", k) for k in PROBABILITIES]
)
def test_the_loops_differentiate(entry: str, kind: str) -> None:
    """Every gradient of the loops against the imaginary part of a step along the imaginary axis."""
    case = case_of("f64", SHAPES[1], entry, kind)
    random, step = np.random.default_rng(2), 1e-30
    for name, gradient in case.gradients.items():
        along = random.standard_normal(gradient.shape)
        if name == "attention":
            along *= case.exact["attention"] != 0  # a zero is no edge
        moved = {n: x + 0j if x.dtype.kind == "f" and n != "mask" else x for n, x in case.exact.items()}
        moved[name] = moved[name] + 1j * step * along
        results = loops.forward(moved, case.switches)
        found = sum(
            (results[n.removeprefix("grad_")].imag * grad)[np.isfinite(case.results[n.removeprefix("grad_")])].sum()
            / step
            for n, grad in case.upstream.items()
        )
        np.testing.assert_allclose((gradient * along).sum(), found, rtol=1e-9, atol=1e-11, err_msg=name)
