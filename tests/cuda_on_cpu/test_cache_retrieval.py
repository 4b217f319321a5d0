"""The CUDA kernels of cache_retrieval on the CPU, against the formula in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .harness.case import Case, Kernel, Problem, kernel_cases
from .harness.numbers import DTYPE_CODE, EPSILON, STORED, accumulation, decode, encode, poison

DTYPES = ["f32", "tf32", "bf16", "f16", "f64"]


def codes(dtype: str) -> list[int]:
    return [DTYPE_CODE[STORED.get(dtype, dtype)], int(dtype == "tf32")]


def unit_rows(rng: np.random.Generator, rows: int, width: int, dtype: str) -> np.ndarray:
    x = rng.standard_normal((rows, width))
    return encode(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9), dtype)


def labels_of(rng: np.random.Generator, entries: int, classes: int) -> np.ndarray:
    """Ragged, and about one class in five empty."""
    kept = np.flatnonzero(rng.random(classes) > 0.2)
    return rng.choice(kept if len(kept) else np.arange(classes), entries).astype(np.int64)


def class_order(labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    counts = np.bincount(labels, minlength=classes)
    return np.argsort(labels, kind="stable").astype(np.int64), np.r_[0, np.cumsum(counts)].astype(np.int64)


def class_sums(affinity: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    return affinity @ np.eye(classes)[labels]


def own_rows(rng: np.random.Generator, queries: int, entries: int) -> np.ndarray:
    """Every third query has no entry of its own."""
    own = rng.integers(0, max(entries, 1), queries)
    return np.where(np.arange(queries) % 3 == 2, -1, own).astype(np.int64)


class PerQuery:
    """A number a query; ``how``: "single", one value in memory for all, or "number", one that is no buffer."""

    def __init__(self, values: np.ndarray, how: str = "") -> None:
        self.number = 1.0
        self.buffer: np.ndarray | None = values
        if "single" in how or "number" in how:
            values = np.full_like(values, values[0])
            self.buffer = None if "number" in how else values[:1]
        if "number" in how:
            self.number = float(values[0])
        self.values = values.astype(np.float64)

    def bits(self) -> int:
        return int(np.float64(self.number).view(np.int64))


class StreamData:
    def __init__(
        self, rng: np.random.Generator, queries: int, keys: int, width: int, dtype: str, how: str = ""
    ) -> None:
        t = accumulation(dtype)
        self.queries, self.keys = unit_rows(rng, queries, width, dtype), unit_rows(rng, keys, width, dtype)
        self.scale = PerQuery(rng.uniform(1, 6, queries).astype(t), how)
        center = rng.uniform(0.2, 1, queries).astype(t)
        self.center = PerQuery(np.ones_like(center) if "number" in how else center, how)
        self.products = decode(self.queries, dtype) @ decode(self.keys, dtype).T
        self.offset = self.products - self.center.values[:, None]
        self.affinity = np.exp(self.scale.values[:, None] * self.offset)

    def buffers(self, name: str) -> dict[str, np.ndarray | None]:
        numbers = {f"{name}_scale": self.scale.buffer, f"{name}_center": self.center.buffer}
        return {f"{name}_queries": self.queries, f"{name}_keys": self.keys, **numbers}


def tolerance(dtype: str) -> float:
    """Relative: sums in the accumulation type; 16-bit and tf32 products are exact in it, so they do no worse."""
    return 1e-12 if dtype == "f64" else 2e-5


def forward_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    b, n, c, width, text_width = (shape[k] for k in ("b", "n", "c", "d", "h"))
    how, t = shape["how"], accumulation(dtype)
    labels = labels_of(rng, n, c)
    order, offsets = class_order(labels, c)
    image = StreamData(rng, b, n, width, dtype, how)
    beta_bits, text_bits, share_bits = image.scale.bits(), 0, 0
    buffers: dict[str, np.ndarray | None] = {"order": order, "offsets": offsets, **image.buffers("image")}
    affinity, per_class = image.affinity, "class" in how
    own = own_rows(rng, b, n) if "own" in how or "mask" in how else None
    kept = np.ones((b, n)) if own is None else (np.arange(n) != own[:, None]).astype(float)
    expected = {}
    if text_width:
        text = StreamData(rng, b, c if per_class else n, text_width, dtype, how)
        other = text.affinity[:, labels] if per_class else text.affinity
        ratio = PerQuery(rng.uniform(0.1, 0.9, b).astype(t), how)
        buffers |= {**text.buffers("text"), "ratio": ratio.buffer}
        text_bits, share_bits = text.scale.bits(), ratio.bits()
        gap = (np.abs(affinity - other) * kept).sum(-1) / np.maximum(kept.sum(-1), 1)
        if "silent" not in how:
            expected["disagreement"] = gap
        mix = ratio.values[:, None]
        affinity = mix * affinity + (1 - mix) * other
    else:
        buffers |= dict.fromkeys(["text_queries", "text_keys", "text_scale", "text_center", "ratio"])
    if "mask" in how:
        affinity = affinity * kept
    expected["scores"] = class_sums(affinity, labels, c)
    buffers |= {"own": own, "scores": poison((b, c), t)}
    buffers["disagreement"] = poison((b,), t) if "disagreement" in expected else None
    sizes = [*codes(dtype), b, n, c, width, text_width, int(per_class), int("mask" in how)]
    sizes += [int("single" in how), beta_bits, text_bits, share_bits]
    return Problem(sizes, buffers, expected, tolerance(dtype), {"disagreement": 10 * tolerance(dtype)})


def forward_shape(b: int, n: int, c: int, d: int, h: int = 0, how: str = "plain") -> dict[str, Any]:
    return {"b": b, "n": n, "c": c, "d": d, "h": h, "how": how}


FORWARD = Kernel(
    name="cache_forward",
    driver="cache_retrieval.cu",
    function="cache_forward",
    source="csrc/cache_retrieval/forward.cuh:forward_kernel",
    shapes=[
        forward_shape(1, 1, 1, 1),
        forward_shape(3, 5, 2, 7),  # rows that no 16-byte access may touch
        forward_shape(0, 4, 2, 8),
        forward_shape(5, 0, 3, 8),
        forward_shape(64, 64, 4, 32),  # one full tile
        forward_shape(65, 129, 90, 48),  # a row more than a tile; many classes of one or no entry
        forward_shape(3, 70, 300, 8),  # gaps of more classes than a block has threads
        forward_shape(9, 200, 2, 17),  # classes larger than a tile, odd width
        forward_shape(7, 66, 5, 40, 24, "own"),
        forward_shape(5, 130, 3, 16, 33, "mask"),  # one stream aligned, the other not
        forward_shape(70, 70, 6, 72, 8, "class mask"),
        forward_shape(2, 3, 3, 5, 5, "class own"),
        forward_shape(1, 1, 1, 4, 4, "own"),  # nothing left once the own entry is out
        forward_shape(5, 66, 3, 24, how="number"),
        forward_shape(5, 66, 3, 24, 8, "number silent"),  # no disagreement
        forward_shape(5, 10, 3, 8, 8, "single own"),
        forward_shape(3, 700, 5, 8),  # several tiles a part
    ],
    dtypes=DTYPES,
    problem=forward_problem,
    slow_shapes=(),
)


def backward_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    b, n, c, width, how = (shape[k] for k in ("b", "n", "c", "d", "how"))
    t = accumulation(dtype)
    labels = labels_of(rng, n, c)
    data = StreamData(rng, b, n, width, dtype, how)
    upstream = rng.standard_normal((b, c)).astype(t)
    multiplicity = rng.integers(1, 4, n).astype(t) if "count" in how else None
    own = own_rows(rng, b, n) if "own" in how else None
    weight = PerQuery(rng.uniform(0.1, 0.9, b).astype(t) if "weight" in how else np.ones(b, t), how)
    if "weight" not in how:
        weight.buffer = None

    count = np.ones((b, n)) if multiplicity is None else np.tile(multiplicity.astype(np.float64), (b, 1))
    if own is not None:
        count = count - (np.arange(n) == own[:, None])
    g = upstream.astype(np.float64)[:, labels] * count * data.affinity
    w, scale = weight.values, data.scale.values
    h = (w * scale)[:, None] * g
    queries, keys = decode(data.queries, dtype), decode(data.keys, dtype)
    rows = {
        "grad_scale": w * (g * data.offset).sum(-1),
        "grad_center": -w * scale * g.sum(-1),
        "grad_weight": g.sum(-1),
    }
    expected = {} if "matrices only" in how or "keys only" in how else rows
    # Signs differ, so sums cancel: the bound is on the sum of magnitudes. H is rounded to tf32 on tensor cores.
    step = tolerance(dtype) + (0 if dtype in ("f32", "f64") else EPSILON["tf32"])
    size, moment = np.abs(g).sum(-1), np.abs(g * data.offset).sum(-1)
    small = tolerance(dtype)
    atol = {
        "grad_scale": 2 * small * (w * (moment + size)),
        "grad_center": small * w * scale * size,
        "grad_weight": small * size,
    }
    buffers: dict[str, np.ndarray | None] = {
        "labels": labels,
        "multiplicity": multiplicity,
        "own": own,
        **data.buffers("stream"),
        "weight": weight.buffer,
        "grad_scores": upstream,
        "grad_queries": None if "keys only" in how or "rows only" in how else poison((b, width), t),
        "grad_keys": None if "queries only" in how or "rows only" in how else poison((n, width), t),
        **{k: poison((b,), t) if k in expected else None for k in rows},
    }
    if buffers["grad_queries"] is not None:
        expected["grad_queries"], atol["grad_queries"] = h @ keys, step * (np.abs(h) @ np.abs(keys))
    if buffers["grad_keys"] is not None:
        expected["grad_keys"], atol["grad_keys"] = h.T @ queries, step * (np.abs(h).T @ np.abs(queries))
    sizes = [*codes(dtype), b, n, c, width, int("single" in how), data.scale.bits(), weight.bits()]
    return Problem(sizes, buffers, expected, 0.0, atol)


def backward_shape(b: int, n: int, c: int, d: int, how: str = "plain") -> dict[str, Any]:
    return {"b": b, "n": n, "c": c, "d": d, "how": how}


BACKWARD = Kernel(
    name="cache_backward",
    driver="cache_retrieval.cu",
    function="cache_backward",
    source="csrc/cache_retrieval/backward.cuh:backward_kernel",
    shapes=[
        backward_shape(1, 1, 1, 1),
        backward_shape(3, 5, 2, 7, "own weight"),
        backward_shape(0, 4, 2, 8),
        backward_shape(5, 0, 3, 8),
        backward_shape(64, 64, 4, 32, "weight"),
        backward_shape(65, 70, 9, 48, "count own weight"),
        backward_shape(9, 200, 2, 17, "count"),  # the other side split, and summed
        backward_shape(130, 3, 3, 40, "own"),
        backward_shape(65, 300, 3, 20, "own weight"),  # several tiles a part: gradients are added up
        backward_shape(6, 10, 4, 24, "queries only"),
        backward_shape(6, 10, 4, 24, "keys only"),
        backward_shape(6, 10, 4, 24, "rows only own"),
        backward_shape(6, 140, 4, 24, "matrices only"),
        backward_shape(6, 140, 4, 24, "rows only"),  # split, and nothing but sums of rows
        backward_shape(6, 300, 4, 24, "number weight"),  # parts of several tiles
        backward_shape(6, 10, 4, 24, "single weight"),
    ],
    dtypes=DTYPES,
    problem=backward_problem,
)


def grid_problem(shape: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    b, n, c, width, betas_n, alphas_n = (shape[k] for k in ("b", "n", "c", "d", "betas", "alphas"))
    t = accumulation(dtype)
    labels = labels_of(rng, n, c)
    order, offsets = class_order(labels, c)
    data = StreamData(rng, b, n, width, dtype)
    betas, alphas = np.linspace(0.5, 6, betas_n).astype(t), np.linspace(0, 3, alphas_n).astype(t)
    base = rng.standard_normal((b, c)).astype(t)
    targets = rng.integers(0, c, b).astype(np.int64)
    exponent = betas.astype(np.float64)[:, None, None] * (data.products - 1)
    scores = class_sums(np.exp(exponent), labels, c)
    if shape["ties"]:  # equal logits in every class: the lowest wins
        base[:] = 0
        alphas[:] = 0
    totals = base.astype(np.float64) + alphas.astype(np.float64)[:, None, None, None] * scores
    # Random targets would rarely be the best class, and a wrong argmax would go unnoticed.
    best = totals.argmax(-1)
    for q in range(b):
        if q % 3:
            targets[q] = best[q % alphas_n, q % betas_n, q]
    if shape["beyond"]:
        targets[:] = [-1, c]
    if shape["nan"]:  # the largest of the other logits must not count as an answer
        base[0, -1] = np.nan
        targets[0] = totals[0, 0, 0, :-1].argmax()
    spoilt = np.isnan(base).any(-1)
    correct = ((best == targets) & ~spoilt).sum(-1).T.astype(np.int64)
    start = np.full((betas_n, alphas_n), 7, np.int64)
    buffers = {
        "order": order, "offsets": offsets, "queries": data.queries, "keys": data.keys, "betas": betas,
        "alphas": alphas, "base": base, "targets": targets, "scores": poison((betas_n, b, c), t), "correct": start,
    }  # fmt: skip
    expected = {"scores": scores, "correct": correct + start}
    return Problem([*codes(dtype), b, n, c, width, betas_n, alphas_n], buffers, expected, tolerance(dtype))


def grid_shape(b: int, n: int, c: int, d: int, betas: int, alphas: int, special: str = "") -> dict[str, Any]:
    sizes = {"b": b, "n": n, "c": c, "d": d, "betas": betas, "alphas": alphas}
    return {**sizes, **{name: special == name for name in ("ties", "nan", "beyond")}}


GRID = Kernel(
    name="cache_grid",
    driver="cache_retrieval.cu",
    function="cache_grid",
    source="csrc/cache_retrieval/forward.cuh:accuracy_kernel",
    shapes=[
        grid_shape(1, 1, 1, 1, 1, 1),
        grid_shape(9, 70, 40, 24, 3, 2),
        grid_shape(30, 90, 101, 16, 2, 2),  # several classes a lane
        grid_shape(66, 20, 5, 16, 2, 3),
        grid_shape(6, 8, 33, 5, 1, 2, "ties"),
        grid_shape(3, 8, 34, 5, 1, 1, "nan"),
        grid_shape(19, 30, 70, 5, 2, 35),  # more alphas than a pass takes, more queries than a block
        grid_shape(2, 8, 3, 5, 1, 2, "beyond"),  # a target that no class has
    ],
    dtypes=["f32", "bf16", "f64"],
    problem=grid_problem,
)


@kernel_cases(FORWARD)
def test_forward(case: Case) -> None:
    case.check()


@kernel_cases(BACKWARD)
def test_backward(case: Case) -> None:
    case.check()


@kernel_cases(GRID)
def test_grid(case: Case) -> None:
    case.check()
