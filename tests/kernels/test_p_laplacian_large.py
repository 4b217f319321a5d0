"""Offsets beyond 32 bits: a few keys of huge sparse arrays count, and the results are those of these keys alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tests.kernels import raw_kernels
from tests.kernels.test_p_laplacian import SWITCHES
from tests.sparse import linux, sparse_zeros

LEVEL = raw_kernels.levels()[-1]
LONG, SEEN = 2**31, 3


def run(
    storage: str,
    arrays: Mapping[str, np.ndarray],
    sizes: Mapping[str, tuple[int, ...]],
    grads: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Forward and backward; ``sizes`` are the shapes of results, ``grads`` the arrays of wanted gradients."""
    random = np.random.default_rng(1)
    results = {name: np.full(size, np.nan, np.float32) for name, size in sizes.items()}
    raw_kernels.p_laplacian(LEVEL, storage, {**arrays, **results}, SWITCHES)
    upstream = {f"grad_{name}": random.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    scalars = {name: np.full_like(arrays["p"], np.nan) for name in ("grad_p", "grad_pull")}
    wanted = {**grads, **scalars}
    raw_kernels.p_laplacian_backward(LEVEL, storage, {**arrays, **results, **upstream, **wanted}, SWITCHES)
    return {**results, **wanted}


def vectors(heads: int = 1) -> dict[str, np.ndarray]:
    return {"p": np.full(heads, 1.5, np.float32), "pull": np.full(heads, 0.25, np.float32)}


@linux
def test_attention_and_its_gradient() -> None:
    queries, keys = 2**11 + 100, 2**20  # the last block of queries begins beyond
    random = np.random.default_rng(0)
    few = random.uniform(0.1, 1, (1, 1, queries, SEEN)).astype(np.float32)
    attention, gradient = (sparse_zeros((1, 1, queries, keys), np.float32) for _ in range(2))
    attention[..., :SEEN] = few
    assert (queries - 100) * keys == LONG
    x_query, x_value = (random.standard_normal((1, 1, n, 1)).astype(np.float32) for n in (queries, keys))
    sizes = {"out": (1, 1, queries, 1), "row_sum": (1, 1, queries)}
    arrays = vectors() | {"x_query": x_query, "key_lengths": np.array([SEEN])}
    results = []
    for a, x, grad in ((attention, x_value, gradient), (few, x_value[:, :, :SEEN].copy(), np.zeros_like(few))):
        grads = {"grad_attention": grad, "grad_x_query": np.zeros_like(x_query), "grad_x_value": np.zeros_like(x)}
        found = run("f32", arrays | {"attention": a, "x_value": x}, sizes, grads)
        results.append({n: g[:, :, :SEEN] if n == "grad_x_value" else g[..., :SEEN] for n, g in found.items()})
    assert np.abs(results[1]["grad_attention"][0, 0, -1]).min() > 0
    for name, expected in results[1].items():
        np.testing.assert_array_equal(results[0][name], expected, err_msg=name)


@linux
@pytest.mark.parametrize("large", ["key", "value", "x_value"])
def test_matrices_of_the_keys(large: str) -> None:
    batch, keys, wide = 2**13 + 1, 2**8, 2**10
    assert (batch - 1) * keys * wide == LONG
    random = np.random.default_rng(0)
    widths = {name: wide if name == large else 2 for name in ("key", "value", "x_value")}

    def rows(count: int, width: int) -> np.ndarray:
        return (random.standard_normal((batch, 1, count, width)) / width**0.5).astype(np.float16).view(np.uint16)

    few = {name: rows(SEEN, width) for name, width in widths.items()}
    many = {name: sparse_zeros((batch, 1, keys, width), np.uint16) for name, width in widths.items()}
    for name, array in many.items():
        array[:, :, :SEEN] = few[name]
    same = vectors() | {"query": rows(1, widths["key"]), "x_query": rows(1, widths["x_value"])}
    same["key_lengths"] = np.full(batch, SEEN)
    sizes: dict[str, tuple[int, ...]] = {name: (batch, 1, 1) for name in ("row_sum", "lse")}
    sizes |= {"out": (batch, 1, 1, widths["x_value"]), "context": (batch, 1, 1, widths["value"])}
    results = []
    for arrays in (many, few):
        grads = {f"grad_{n}": np.full(same[n].shape, np.nan, np.float32) for n in ("query", "x_query")}
        results.append(run("f16", same | arrays, sizes, grads))
    for name, expected in results[1].items():
        assert np.isfinite(expected).all(), name
        np.testing.assert_array_equal(results[0][name], expected, err_msg=name)


@linux
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", [np.bool_, np.float32], ids=["boolean", "additive"])
def test_strides_of_the_mask(axis: int, kind: type) -> None:
    random = np.random.default_rng(0)
    sizes = [1, 1, 1, 1]
    sizes[axis] = 2
    batch, heads, queries, keys = sizes
    apart = LONG + 64  # elements
    line = sparse_zeros((apart + 1,), kind)
    line[0], line[apart] = (True, False) if kind is np.bool_ else (0.5, -0.5)
    strides = [0, 0, 0, 0]
    strides[axis] = apart * line.itemsize
    mask = np.lib.stride_tricks.as_strided(line, sizes, strides)
    shapes = {"query": queries, "key": keys, "x_query": queries, "x_value": keys}
    arrays = vectors(heads) | {
        name: random.standard_normal((batch, heads, n, 4)).astype(np.float32) for name, n in shapes.items()
    }
    result_sizes = {
        "out": (batch, heads, queries, 4),
        "row_sum": (batch, heads, queries),
        "lse": (batch, heads, queries),
    }
    results = []
    for each in (mask, mask.copy()):
        grads = {f"grad_{name}": np.full(arrays[name].shape, np.nan, np.float32) for name in shapes}
        results.append(run("f32", arrays | {"mask": each}, result_sizes, grads))
    for name, expected in results[1].items():
        np.testing.assert_array_equal(results[0][name], expected, err_msg=name)
