"""The CUDA kernels of attention_column_sums on the CPU, against the formula and its gradients in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vlmadapt.ops import attention_column_sums_reference, attention_probabilities

from .harness.case import Case, Kernel, Problem, kernel_cases
from .harness.numbers import DTYPE_CODE, accumulation, decode, encode, poison
from .test_p_laplacian import DTYPES, scaled


def shape(b: int, h: int, q: int, k: int, e: int, how: str) -> dict[str, Any]:
    return {"b": b, "h": h, "q": q, "k": k, "e": e, "how": how}


# One, odd, empty on either side, a tile and one more, wider than a chunk, no width (no product brings barriers), every
# mask. "key" and "query": only that gradient is wanted.
SHAPES = [
    shape(1, 1, 1, 1, 1, "plain"),
    shape(1, 2, 3, 5, 7, "plain"),
    shape(1, 2, 5, 0, 4, "plain"),
    shape(1, 2, 0, 5, 4, "plain"),
    shape(1, 2, 33, 65, 34, "boolean"),  # a fully masked row, a key that nobody sees
    shape(1, 1, 65, 33, 64, "causal"),
    shape(2, 2, 9, 40, 8, "additive causal lengths"),
    shape(2, 2, 5, 6, 3, "boolean each lengths"),
    shape(1, 2, 33, 40, 0, "plain"),
    shape(1, 2, 40, 34, 5, "key"),
    shape(1, 2, 34, 40, 5, "query"),
    shape(1, 2, 70, 66, 5, "additive causal"),  # two tiles of either side
    shape(1, 1, 5, 130, 68, "boolean lengths"),
]


class Inputs:
    """Buffers and sizes as the driver reads them, and the same numbers as float64 tensors."""

    def __init__(self, s: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> None:
        self.how = s["how"].split()
        b, h, q, k, e = (s[name] for name in "bhqke")
        self.shape = (b, h, q, k, e)
        t = accumulation(dtype)
        stored = {"query": encode(rng.standard_normal((b, h, q, e)), dtype)}
        stored |= {"key": encode(rng.standard_normal((b, h, k, e)), dtype)}
        masks = h if "each" in self.how else 1
        boolean = rng.random((b, masks, q, k)) > 0.4
        boolean[:, :, :1] = False
        boolean[..., 1:2] = False
        additive = np.where(boolean[:1, :1], rng.standard_normal((1, 1, q, k)), -np.inf).astype(t)
        mask, kind, strides = None, 0, [0, 0, 0, 0]
        if "boolean" in self.how:
            mask, kind, strides = boolean.view(np.uint8), 1, [masks * q * k, q * k * (masks > 1), k, 1]
        if "additive" in self.how:
            mask, kind, strides = additive, 2, [0, 0, k, 1]
        lengths = np.arange(2, 2 + b).astype(np.int64) if "lengths" in self.how else None
        causal = "causal" in self.how
        self.buffers = {**stored, "mask": mask, "lengths": lengths}
        self.sizes = [DTYPE_CODE[dtype], b, h, q, k, e, kind, *strides, int(causal), 500_000]
        self.tensors = {n: torch.from_numpy(decode(x, dtype)) for n, x in stored.items()}
        given = None
        if mask is not None:
            given = torch.from_numpy(boolean) if kind == 1 else torch.from_numpy(additive).double()
        self.options: dict[str, Any] = {"mask": given, "is_causal": causal, "scale": 0.5}
        self.options["key_lengths"] = None if lengths is None else torch.from_numpy(lengths)

    def sums(self) -> torch.Tensor:
        return attention_column_sums_reference(self.tensors["query"], self.tensors["key"], **self.options)

    def lse(self) -> np.ndarray:
        lse = attention_probabilities(self.tensors["query"], self.tensors["key"], **self.options)[1]
        return lse.detach().numpy()


def forward_problem(s: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    inputs = Inputs(s, dtype, rng)
    b, h, q, k, _ = inputs.shape
    t = accumulation(dtype)
    expected = {"sums": inputs.sums().numpy(), "lse": inputs.lse()}
    outputs = {"sums": poison((b, h, k), t), "lse": poison((b, h, q), t)}
    return Problem(inputs.sizes, {**inputs.buffers, **outputs}, expected, 0.0, scaled(expected, dtype))


def backward_problem(s: Mapping[str, Any], dtype: str, rng: np.random.Generator) -> Problem:
    inputs = Inputs(s, dtype, rng)
    t = accumulation(dtype)
    upstream = rng.standard_normal((*inputs.shape[:2], inputs.shape[3])).astype(t)
    for tensor in inputs.tensors.values():
        tensor.requires_grad_()
    loss = (inputs.sums() * torch.from_numpy(upstream.astype(np.float64))).sum()
    grads = torch.autograd.grad(loss, list(inputs.tensors.values()), materialize_grads=True, allow_unused=True)
    wanted = [name for name in ("query", "key") if name in inputs.how] or ["query", "key"]
    expected = {f"grad_{n}": g.numpy() for n, g in zip(inputs.tensors, grads, strict=True) if n in wanted}
    outputs = {f"grad_{n}": poison(tuple(x.shape), t) if n in wanted else None for n, x in inputs.tensors.items()}
    buffers = {**inputs.buffers, "lse": inputs.lse().astype(t), "upstream": upstream, **outputs}
    return Problem(inputs.sizes, buffers, expected, 0.0, scaled(expected, dtype))


def kernel(name: str, function: str, problem: Any) -> Kernel:
    return Kernel(
        name=f"attention_column_sums_{name}",
        driver="attention_column_sums.cu",
        function=f"attention_column_sums_{name}",
        source=f"csrc/attention_column_sums/columns.cuh:{function}",
        shapes=SHAPES,
        dtypes=DTYPES,
        problem=problem,
    )


FORWARD = kernel("forward", "sums_kernel", forward_problem)
BACKWARD = kernel("backward", "gradient_kernel", backward_problem)


@kernel_cases(FORWARD)
def test_forward(case: Case) -> None:
    case.check()


@kernel_cases(BACKWARD)
def test_backward(case: Case) -> None:
    case.check()
