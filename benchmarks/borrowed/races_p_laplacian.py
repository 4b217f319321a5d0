"""p_laplacian from probabilities and from queries and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from benchmarks.borrowed.race import DTYPES, Function, Race, compiled, differentiated
from benchmarks.rivals.p_laplacian import FUNCTIONS, HEADS, WIDTH, Case

# batch, queries, keys, features of a node
SHAPES = {
    "32x12x577x577, d=8": (32, 577, 577, 8),
    "32x12x577x577, d=64": (32, 577, 577, 64),
    "2x12x40x577, d=8": (2, 40, 577, 8),
    "8x12x40x40, d=8": (8, 40, 40, 8),
}
DRY = {"1x12x3x5, d=2": (1, 3, 5, 2)}
LARGEST_RELEASED = 1_000_000  # pairs; beyond, its differences take gigabytes
NAMES = {"probabilities": "p_laplacian", "scores": "p_laplacian_attention"}


def rivals(case: Case, entry: str) -> dict[str, Callable[[], Function]]:
    found: dict[str, Callable[[], Function]] = {}
    for name, function in FUNCTIONS[entry].items():
        if name == "released" and case.attention.numel() > LARGEST_RELEASED:
            continue
        found[name] = lambda f=function, n=name: compiled(f) if n == "compiled" else f  # type: ignore[misc]
    return found


def work(case: Case, entry: str, dtype: str, inputs: list[Tensor], times: int) -> dict[str, float]:
    """Distances and messages, with scores their products too; every matrix once through memory."""
    pairs = case.attention.numel()
    width = 2 * case.x_query.shape[-1] + (2 * WIDTH if entry == "scores" else 0)
    moved = sum(x.numel() * x.element_size() for x in inputs) + case.x_query.numel() * case.x_query.element_size()
    return {dtype: 2.0 * times * pairs * width, "copy": float(times * moved)}


def races(dry: bool, backward: bool, combinations: list[tuple[str, str, str]]) -> Iterator[Race]:
    for shape, entry, dtype in combinations:
        batch, queries, keys, features = (DRY if dry else SHAPES)[shape]
        case = Case(batch, queries, keys, features, DTYPES[dtype])
        inputs = getattr(case, entry)()
        made = rivals(case, entry)
        if backward:
            inputs = [x.requires_grad_() for x in inputs]
            made = differentiated(made, ("ours", "ours_with_context", "eager", "compiled"))

        def exact(case: Case = case, entry: str = entry, inputs: list[Tensor] = inputs) -> Tensor:
            result = FUNCTIONS[entry]["eager"](*[x.double() for x in inputs])
            assert isinstance(result, Tensor)
            return result

        group = NAMES[entry] + (" forward and backward" if backward else " forward")
        amount = work(case, entry, dtype, inputs, 3 if backward else 1)
        truth = None if backward else exact
        yield Race(group, shape, dtype, inputs, amount, made, truth, other_results=("ours_with_degrees",))
        del case, inputs, made


def forward(dry: bool) -> Iterator[Race]:
    if dry:
        return races(dry, False, [(next(iter(DRY)), entry, dtype) for entry in NAMES for dtype in ("fp32", "bf16")])
    large, wide, short, small = SHAPES
    first = [(large, entry, dtype) for entry in NAMES for dtype in ("fp32", "bf16")]
    rest = [(short, entry, "fp32") for entry in NAMES]
    rest += [(shape, "probabilities", "fp32") for shape in (wide, small)]
    return races(dry, False, [*first, *rest])


def backward(dry: bool) -> Iterator[Race]:
    if dry:
        return races(dry, True, [(next(iter(DRY)), "probabilities", "fp32")])
    large, _, short, _ = SHAPES
    return races(dry, True, [(shape, entry, "fp32") for shape in (short, large) for entry in NAMES])


assert HEADS == 12, "the names of the shapes say so"
