"""cache_retrieval: forward, forward and backward, and the search over betas and alphas."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.borrowed.race import DTYPES, Function, Race, compiled, differentiated
from benchmarks.rivals.cache_retrieval import BETA, Case
from benchmarks.rivals.cache_retrieval_triton import twin
from vlmadapt.ops import cache_retrieval_grid

# queries, classes, entries a class, width
SHAPES = {
    "1000x16000x512": (1000, 1000, 16, 512),
    "64x16000x1024": (64, 1000, 16, 1024),
    "1x16000x512": (1, 1000, 16, 512),
    "256x1600x512": (256, 100, 16, 512),
    "4096x64000x768": (4096, 4000, 16, 768),
}
DRY = {"6x12x8": (6, 4, 3, 8)}
LARGEST = "4096x64000x768"
CHUNKS = (2000, 4000, 8000)  # keys: products of so many, in float32, stay in the L2 cache


def chunked(case: Case, keys_at_once: int, compile_it: bool) -> Function:
    """Products by the library into a buffer that the L2 cache holds, then one kernel for exponential and class sums."""

    def sums(products: Tensor) -> Tensor:
        return torch.exp(BETA * products - BETA).view(len(products), -1, case.shots).sum(-1)

    def product(queries: Tensor, keys: Tensor) -> Tensor:
        if queries.dtype == torch.float32 or not queries.is_cuda:
            return queries @ keys.T
        return torch.mm(queries, keys.T, out_dtype=torch.float32)  # type: ignore[call-overload,no-any-return]

    step = compiled(sums) if compile_it else sums

    def function(queries: Tensor, keys: Tensor) -> Tensor:
        parts = [step(product(queries, part)) for part in keys.split(keys_at_once)]
        return torch.cat(parts, 1)  # type: ignore[arg-type]

    return function


def product_alone(queries: Tensor, keys: Tensor) -> Tensor:
    return queries @ keys.T


def rivals(case: Case, shape: str, dry: bool) -> dict[str, Callable[[], Function]]:
    found: dict[str, Callable[[], Function]] = {
        "ours": lambda: case.ours,
        "ours_fused": lambda: case.ours_by("fused"),
        "ours_chunked": lambda: case.ours_by("chunked"),
        "eager": lambda: case.eager,
        "product alone": lambda: product_alone,
        "triton": lambda: twin(case.shots, case.classes, BETA),
    }
    if shape != LARGEST:
        found["released"] = lambda: case.released
    for keys in (6,) if dry else CHUNKS:
        if len(case.labels) % keys == 0 and keys % case.shots == 0:
            found[f"chunks of {keys} keys"] = lambda keys=keys: chunked(case, keys, False)  # type: ignore[misc]
    found["compiled"] = lambda: compiled(case.eager)
    if len(case.labels) % 4000 == 0:
        found["chunks of 4000 keys, compiled sums"] = lambda: chunked(case, 4000, True)
    return found


def work(case: Case, dtype: str, products: int, outputs: int) -> dict[str, float]:
    """``products`` of [B, D] x [D, n], inputs read and ``outputs`` times the inputs written, scores written."""
    queries, keys = case.queries, case.keys
    moved = (1 + outputs) * (queries.numel() + keys.numel()) * queries.element_size() + 4 * case.grad.numel()
    return {dtype: 2.0 * products * len(queries) * keys.numel(), "copy": float(moved)}


def races(dry: bool, backward: bool, combinations: list[tuple[str, str]]) -> Iterator[Race]:
    for shape, dtype in combinations:
        case = Case((DRY if dry else SHAPES)[shape], DTYPES[dtype])
        inputs = [case.queries, case.keys]
        made = rivals(case, shape, dry)
        if backward:
            inputs = [x.requires_grad_() for x in inputs]
            made = differentiated(made, ("ours", "ours_fused", "ours_chunked", "eager", "compiled"))

        def exact(case: Case = case) -> Tensor:
            return case.eager(case.queries.double(), case.keys.double())

        group = "cache forward and backward" if backward else "cache forward"
        # The backward needs the products once more and two that give the gradients.
        amount = work(case, dtype, 3 if backward else 1, int(backward))
        yield Race(group, shape, dtype, inputs, amount, made, None if backward else exact)
        del case, inputs, made


def forward(dry: bool) -> Iterator[Race]:
    if dry:
        return races(dry, False, [(next(iter(DRY)), dtype) for dtype in ("fp32", "bf16")])
    first = [("1000x16000x512", dtype) for dtype in ("bf16", "fp32", "tf32")]
    few = [(shape, dtype) for shape in ("64x16000x1024", "1x16000x512") for dtype in ("bf16", "fp32")]
    rest = [("256x1600x512", "fp32"), *((LARGEST, dtype) for dtype in ("bf16", "fp32"))]
    return races(dry, False, [*first, *few, *rest])


def backward(dry: bool) -> Iterator[Race]:
    if dry:
        return races(dry, True, [(next(iter(DRY)), "fp32")])
    large, few, _, small, _ = SHAPES
    return races(dry, True, [(large, "bf16"), (few, "fp32"), (large, "fp32"), (small, "fp32")])


def grid(dry: bool) -> Iterator[Race]:
    """Against the same search cell by cell, of which one cell is timed and multiplied."""
    for betas_n, alphas_n in [(2, 3)] if dry else [(20, 10), (200, 20)]:
        case = Case(DRY["6x12x8"] if dry else SHAPES["1000x16000x512"])
        betas, alphas = torch.linspace(0.5, 20, betas_n), torch.linspace(0.1, 10, alphas_n)
        targets = torch.arange(len(case.queries)) % case.classes

        def search(queries: Tensor, keys: Tensor, c: Case = case, b: Tensor = betas, a: Tensor = alphas,
                   t: Tensor = targets) -> Tensor:  # fmt: skip
            return cache_retrieval_grid(queries, keys, c.cache, b, a, c.grad, t)

        def cell(queries: Tensor, keys: Tensor, c: Case = case, a: Tensor = alphas, t: Tensor = targets) -> Tensor:
            return (c.grad + a[0] * c.eager(queries, keys)).argmax(-1) == t

        made: dict[str, Callable[[], Function]] = {
            "ours": lambda search=search: search,  # type: ignore[misc]
            "eager, one cell": lambda cell=cell: cell,  # type: ignore[misc]
        }
        shape = f"{len(case.queries)}x{len(case.keys)}, {betas_n} betas, {alphas_n} alphas"
        yield Race("cache grid", shape, "fp32", [case.queries, case.keys], work(case, "fp32", 1, 0), made)
