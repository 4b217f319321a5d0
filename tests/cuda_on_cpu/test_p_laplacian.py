"""The CUDA kernels of p_laplacian on the CPU, against the formula and its gradients in float64 (torch autograd)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vlmadapt.ops import p_laplacian_attention_reference, p_laplacian_reference

from .harness.case import Case, Kernel, Problem, kernel_cases
from .harness.numbers import DTYPE_CODE, accumulation, decode, encode, poison

DTYPES = ["f32", "bf16", "f16", "f64"]
EPS = 1e-3  # of "keep": large enough to be seen in float
FAR = 2**31 + 11  # elements: no 32-bit offset gets there


def shape(b: int, h: int, q: int, k: int, e: int, v: int, d: int, how: str) -> dict[str, Any]:
    return {"b": b, "h": h, "q": q, "k": k, "e": e, "v": v, "d": d, "how": how}


# One, odd, empty on either side, a tile and one more, wider than a chunk, every switch. Words that need one:
# "alone": the first head has no pull, and a row of it no weight; "negative": an attention below zero, which is NaN;
# "steep": p above 2, and 1; "far": rows of the mask more than 2^31 elements apart; "unwanted": only the gradients that
# are always written; "blind": a context that the loss does not use; "each": a mask a head; "apart": the points of the
# queries and those of the keys are two clouds.
SHAPES = [
    shape(1, 1, 1, 1, 1, 1, 1, "scores value"),
    shape(1, 2, 3, 5, 7, 0, 3, "scores"),
    shape(1, 2, 5, 0, 4, 3, 2, "scores value"),
    shape(1, 2, 0, 5, 4, 3, 2, "scores value"),
    shape(1, 1, 32, 32, 32, 32, 32, "scores value causal diagonal"),
    shape(1, 2, 33, 65, 34, 5, 8, "scores value boolean lse"),
    shape(1, 1, 66, 70, 5, 36, 36, "scores value causal lse"),
    shape(1, 2, 7, 9, 4, 3, 5, "scores value boolean causal"),  # fully masked rows
    shape(1, 2, 7, 4, 3, 2, 5, "scores value boolean causal alone"),
    shape(2, 2, 3, 6, 4, 0, 2, "scores boolean lse far steep"),
    shape(2, 2, 5, 6, 4, 0, 2, "scores boolean each"),
    shape(2, 1, 9, 40, 8, 33, 35, "scores value additive causal lengths lse none"),
    shape(2, 2, 4, 6, 3, 2, 2, "scores value lengths coincident"),
    shape(1, 1, 5, 34, 64, 64, 64, "scores value causal"),  # a head's usual widths
    shape(1, 1, 4, 5, 128, 0, 128, "scores boolean lse"),
    shape(1, 1, 5, 6, 12, 20, 12, "scores value"),  # no power of two of fours
    shape(1, 1, 5, 6, 0, 0, 128, "attention"),
    shape(1, 2, 33, 40, 0, 3, 2, "scores value"),  # no product of queries and keys brings barriers
    shape(1, 1, 1, 1, 0, 0, 1, "attention"),
    shape(2, 2, 33, 34, 0, 0, 9, "attention coincident"),
    shape(1, 2, 5, 40, 0, 0, 33, "attention keep none"),
    shape(1, 2, 65, 130, 0, 0, 16, "attention diagonal"),
    shape(1, 2, 4, 6, 0, 0, 4, "attention diagonal steep"),
    shape(1, 2, 5, 6, 0, 0, 4, "attention alone"),
    shape(1, 1, 3, 6, 0, 0, 4, "attention negative"),
    shape(1, 1, 3, 5, 0, 0, 2, "attention unwanted"),
    shape(1, 2, 3, 5, 4, 3, 2, "scores value unwanted"),
    shape(1, 2, 5, 3, 4, 3, 2, "scores value blind"),
    shape(1, 2, 3, 0, 0, 0, 4, "attention"),
    # More tiles of keys than one: in parts of two, parts without a key, and in one part, since owners are many.
    shape(1, 2, 3, 200, 5, 6, 7, "scores value causal"),
    shape(1, 1, 5, 130, 3, 2, 4, "scores value lengths"),
    shape(1, 1, 5, 128, 3, 2, 4, "scores value"),  # whole parts, and a key less
    shape(1, 1, 5, 127, 3, 2, 4, "scores value"),
    shape(2, 2, 5, 70, 6, 3, 9, "scores value additive"),
    shape(1, 2, 200, 3, 5, 6, 7, "scores value"),
    shape(1, 1, 9, 200, 0, 0, 12, "attention keep"),
    shape(1, 1, 5, 6, 70, 0, 3, "scores"),  # more columns of 16 bits than a chunk, and no whole number of chunks
]


class Inputs:
    """Buffers and sizes as the driver reads them, and the same numbers as float64 tensors."""

    def __init__(self, s: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> None:
        self.how = s["how"].split()
        b, h, q, k, e, v, d = (s[name] for name in ("b", "h", "q", "k", "e", "v", "d"))
        self.scores, self.with_value, t = "scores" in self.how, "value" in self.how, accumulation(dtype)
        self.shape = (b, h, q, k, e, v, d)

        def draw(*sizes: int) -> np.ndarray:
            return encode(rng.standard_normal(sizes), dtype)

        logits = rng.standard_normal((b, h, q, k))
        attention = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        attention[..., ::4] = 0
        if "alone" in self.how:
            attention[:, :, 1] = 0
        if "negative" in self.how:
            attention[:, :, 1, 2] *= -1
        stored = {
            "attention": None if self.scores else encode(attention, dtype),
            "query": draw(b, h, q, e) if self.scores else None,
            "key": draw(b, h, k, e) if self.scores else None,
            "value": draw(b, h, k, v) if self.with_value else None,
        }
        # As near as the type lets different points be.
        away, spread = (1000.0, 4.0 if dtype == "bf16" else 1.0) if "near" in self.how else (0.0, 1.0)
        if "apart" in self.how:
            away, spread = 3.0, 0.3
        sides = (q, away), (k, -away if "apart" in self.how else away)
        x_query, x_value = (encode(at + spread * rng.standard_normal((b, h, n, d)), dtype) for n, at in sides)
        stored |= {"x_query": x_query, "x_value": x_value}
        if "coincident" in self.how:
            x_value[:, :, 1] = x_query[:, :, 2]
        p = np.array([2.75, 1.0] if "steep" in self.how else [1.25, 2.0])[:h].astype(t)
        pull = rng.uniform(0.1, 0.4, h).astype(t)
        if "alone" in self.how:
            pull[0] = 0
        masks = h if "each" in self.how else 1
        boolean = rng.random((b, masks, q, k)) > 0.4
        if "lse" in self.how:  # its gradient needs it finite
            boolean[..., :2] = True
        else:
            boolean[:, :, :1] = False  # a fully masked row
        additive = np.where(boolean[:1], rng.standard_normal((1, 1, q, k)), -np.inf)
        mask, kind, strides = None, 0, [0, 0, 0, 0]
        if "boolean" in self.how:
            mask, kind, strides = boolean.view(np.uint8), 1, [masks * q * k, q * k * (masks > 1), k, 1]
        if "additive" in self.how:
            mask, kind, strides = additive.astype(t), 2, [0, 0, k, 1]
        lengths = np.arange(2, 2 + b).astype(np.int64) if "lengths" in self.how else None
        self.buffers = {**stored, "p": p, "pull": pull, "mask": mask, "lengths": lengths}
        keep, none = "keep" in self.how, "none" in self.how
        switches = ["causal" in self.how, not none, "diagonal" in self.how, keep]
        sizes = [DTYPE_CODE[dtype], b, h, q, k, e, v, d, self.scores, self.with_value, kind, *strides, *switches]
        self.sizes = [int(x) for x in (*sizes, 500_000, EPS * 1e6, FAR if "far" in self.how else 0)]
        self.tensors = {n: torch.from_numpy(decode(x, dtype)) for n, x in stored.items() if x is not None}
        self.tensors |= {"p": torch.from_numpy(p.astype(np.float64))}
        self.tensors |= {"mu": torch.from_numpy(pull.astype(np.float64)) * self.tensors["p"] / 2}
        self.options: dict[str, Any] = {"residual": "none" if none else "query", "homogeneous": "diagonal" in self.how}
        if self.scores:
            self.options |= {"scale": 0.5, "is_causal": "causal" in self.how, "return_lse": True}
            self.options["mask"] = (
                None
                if mask is None
                else torch.from_numpy(boolean if kind == 1 else mask).to(torch.bool if kind == 1 else torch.float64)
            )
            self.options["key_lengths"] = None if lengths is None else torch.from_numpy(lengths)
        else:
            self.options |= {"self_loops": "keep" if keep else "drop", "eps": int(EPS * 1e6) * 1e-6}

    def run(self, pull: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """out, and with scores context and lse."""
        tensors: dict[str, Any] = dict(self.tensors)
        if pull is not None:  # as an input of its own: no gradient of p through it
            tensors["mu"] = pull * tensors["p"] / 2
        if not self.scores:
            return {"out": p_laplacian_reference(**tensors, **self.options)}
        result = p_laplacian_attention_reference(**tensors, **self.options)
        return {n: x for n, x in result._asdict().items() if x is not None}


def weights_of(inputs: Inputs) -> torch.Tensor:
    """row_sum [b, h, q] by the formula, pair by pair in NumPy-like torch."""
    t, (_, _, q, k, _, _, _) = inputs.tensors, inputs.shape
    if inputs.scores:
        lse = inputs.run()["lse"].unsqueeze(-1)
        s = t["query"] @ t["key"].mT * 0.5
        if inputs.options["mask"] is not None:
            mask = inputs.options["mask"]
            s = s.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else s + mask
        if inputs.options["is_causal"]:
            s = s.masked_fill(~torch.ones(q, k, dtype=torch.bool).tril(k - q), -torch.inf)
        if inputs.options["key_lengths"] is not None:
            s = s.masked_fill(torch.arange(k) >= inputs.options["key_lengths"].reshape(-1, 1, 1, 1), -torch.inf)
        a = torch.where(s == -torch.inf, 0, (s - lse).exp())
    else:
        a = t["attention"]
    difference = t["x_query"].unsqueeze(-2) - t["x_value"].unsqueeze(-3)
    if inputs.options.get("self_loops") == "keep":
        difference = a.sqrt().unsqueeze(-1) * difference + inputs.options["eps"]
        squared = difference.square().sum(-1)
    else:
        squared = a * difference.square().sum(-1)
    power = t["p"].reshape(-1, 1, 1)
    pairs = a * squared.pow((power - 2) / 2)
    pairs = torch.where((a == 0) | ((squared == 0) & (power != 2)), 0, pairs)
    if inputs.options["homogeneous"]:
        pairs = pairs * ~torch.eye(k, dtype=torch.bool)[k - q :]
    return pairs.sum(-1)


def tolerance(dtype: str) -> float:
    """Relative to the largest value: 16-bit inputs are widened exactly, so they do no worse than float."""
    return 1e-11 if dtype == "f64" else 2e-4


def scaled(expected: Mapping[str, np.ndarray], dtype: str) -> dict[str, Any]:
    return {
        n: tolerance(dtype) * max(1.0, float(np.abs(x[np.isfinite(x)]).max(initial=0))) for n, x in expected.items()
    }


def forward_problem(s: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    inputs = Inputs(s, dtype, rng)
    b, h, q, _, _, v, d = inputs.shape
    expected = {n: x.numpy() for n, x in inputs.run().items()}
    expected["row_sum"] = weights_of(inputs).numpy()
    t = accumulation(dtype)
    outputs = {"out": poison((b, h, q, d), t), "row_sum": poison((b, h, q), t), "lse": None, "context": None}
    if inputs.scores:
        outputs["lse"] = poison((b, h, q), t)
        finite = np.isfinite(expected["lse"])
        assert finite.all() or "lse" not in inputs.how
        expected["lse"] = np.where(finite, expected["lse"], -np.inf)
    if inputs.with_value:
        outputs["context"] = poison((b, h, q, v), t)
    return Problem(inputs.sizes, {**inputs.buffers, **outputs}, expected, 0.0, scaled(expected, dtype))


def backward_problem(s: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    inputs = Inputs(s, dtype, rng)
    t = accumulation(dtype)
    for tensor in inputs.tensors.values():
        tensor.requires_grad_()
    pull = torch.from_numpy(inputs.buffers["pull"].astype(np.float64)).requires_grad_()
    results = inputs.run(pull)
    # As torch would hand them over: the forward's results, rounded to the accumulation type.
    saved = {n: x.detach().numpy().astype(t) for n, x in results.items()}
    saved["row_sum"] = weights_of(inputs).detach().numpy().astype(t)
    upstream: dict[str, np.ndarray | None] = {n: rng.standard_normal(x.shape).astype(t) for n, x in results.items()}
    if "lse" not in inputs.how:
        upstream["lse"] = None
    with_context = inputs.with_value and "blind" not in inputs.how
    if not with_context:
        upstream["context"] = None
    loss = torch.zeros((), dtype=torch.float64)
    for n, g in upstream.items():
        if g is not None:
            loss = loss + (results[n] * torch.from_numpy(g.astype(np.float64))).sum()
    wanted = {n: x for n, x in inputs.tensors.items() if n != "mu"} | {"pull": pull}
    # mu = pull p / 2 reaches p too; with pull as the input the two ways cancel.
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    unwanted = {"attention", "query", "key", "value"} if "unwanted" in inputs.how else set()
    unwanted |= set() if with_context else {"value"}
    expected = {
        f"grad_{n}": np.zeros(x.shape) if g is None else g.numpy()
        for (n, x), g in zip(wanted.items(), grads, strict=True)
        if n not in unwanted
    }
    outputs = {
        f"grad_{n}": poison(tuple(wanted[n].shape), t) if n in wanted and n not in unwanted else None
        for n in ("attention", "query", "key", "value", "x_query", "x_value", "p", "pull")
    }
    names = ("out", "row_sum", "lse", "context")
    buffers = {**inputs.buffers, **{n: saved.get(n) for n in names}}
    buffers |= {"upstream": upstream["out"], "upstream_context": upstream.get("context")}
    buffers |= {"upstream_lse": upstream.get("lse"), **outputs}
    sizes = [*inputs.sizes, 1, int(with_context)]
    return Problem(sizes, buffers, expected, 0.0, scaled(expected, dtype))


FORWARD = Kernel(
    name="p_laplacian_forward",
    driver="p_laplacian.cu",
    function="p_laplacian_forward",
    source="csrc/p_laplacian/forward.cuh:forward_kernel",
    shapes=SHAPES,
    dtypes=DTYPES,
    problem=forward_problem,
)
BACKWARD = Kernel(
    name="p_laplacian_backward",
    driver="p_laplacian.cu",
    function="p_laplacian_backward",
    source="csrc/p_laplacian/backward.cuh:backward_kernel",
    shapes=SHAPES,
    dtypes=DTYPES,
    problem=backward_problem,
)


@kernel_cases(FORWARD)
def test_forward(case: Case) -> None:
    case.check()


@kernel_cases(BACKWARD)
def test_backward(case: Case) -> None:
    case.check()
