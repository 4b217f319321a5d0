"""Random calls of every operator against the eager reference in float64, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fuzz.outcome import assert_sentence, in_time
from tests.ops.accuracy import UNIT
from tests.ops.calls import changed, flat, leaves, mapped, places, results_and_gradients
from tests.ops.cases import CASES
from tests.ops.draw import DTYPES, Arguments, Case, Draw
from vlmadapt import ops
from vlmadapt.errors import VlmadaptError

SIZES = [1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 21]
RARE = [31, 32, 33, 47, 64, 65]
# Relative to a result's largest element, or to one, beside what the condition of the problem allows (see `check`).
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
UNIT_64 = 2.0**-53
NOISE = 64  # times the change of the true result when every number on the way to it is rounded once
EAGER = 8  # times what eager in the type of the inputs errs by
# Results that jump: a prediction or a neighbour is another when two scores change places.
SELF = CASES["p_laplacian_attention, homogeneous"]
JUMP = {"cache_retrieval_grid", "signed_cosine_top_k"}


def sizes_of(random: Random, case: Case) -> dict[str, int]:
    found = {name: random.choice(RARE if random.randrange(40) == 0 else SIZES) for name in case.sizes}
    if random.randrange(8) == 0 and case.empty:
        found[random.choice(case.empty)] = 0
    if "more" in found:  # keys than queries; fewer only where nothing says that the queries are keys
        fewer = -min(found["more"], max(found["queries"] - 1, 0))
        found["more"] = random.choice([0, 0, found["more"], fewer if case is not SELF else 0])
    return found


def strided(random: Random, tensor: Tensor) -> Tensor:
    """The same numbers in another layout, requiring a gradient as ``tensor`` does."""
    plain = tensor.detach()
    match random.randrange(4):
        case 0:
            twin = torch.stack([plain] * 2, -1)[..., 0]
        case 1 if plain.dim() > 1:
            twin = plain.transpose(-1, -2).contiguous().transpose(-1, -2)
        case 2:  # begins in the middle of its memory, at an odd address
            twin = torch.cat([plain.new_zeros(1), plain.reshape(-1)])[1:].view(plain.shape)
        case _:
            return tensor
    return twin.requires_grad_(tensor.requires_grad)


def spoilt(random: Random, tensor: Tensor) -> Tensor:
    """Rows that coincide or vanish, or all numbers larger or smaller."""
    if not tensor.is_floating_point() or not tensor.numel() or random.randrange(12):
        return tensor
    twin = tensor.detach().clone()
    match random.randrange(3):
        case 0 if twin.dim() > 1:
            twin[..., random.randrange(twin.shape[-2]), :] = 0
        case 1 if twin.dim() > 1:
            first, second = random.randrange(twin.shape[-2]), random.randrange(twin.shape[-2])
            twin[..., first, :] = twin[..., second, :]
        case _ if twin.dim() > 1:
            twin *= random.choice([0.125, 0.5, 2])
    return twin.requires_grad_(tensor.requires_grad)


class Rounded(TorchDispatchMode):
    """Moves whatever is computed in it by one rounding of float32, up or down, in the backward too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.source = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliased = any(each.alias_info for each in func._schema.returns)  # views, and what is written in place
        if aliased or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        return result * (1 + UNIT * (torch.randint(0, 2, result.shape, generator=self.source) * 2 - 1))


def converted(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """The same numbers in another type."""

    def convert(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.detach().to(dtype).requires_grad_(tensor.requires_grad)

    return mapped(arguments, convert)


def call(random: Random) -> str:
    """One random call, compared; its name. Raises AssertionError where the kernel is wrong, or what it raised."""
    name = random.choice(sorted(CASES))
    case = CASES[name]
    dtype = random.choice(DTYPES)
    given = case.arguments(Draw(sizes_of(random, case), dtype, random.randrange(2**31)))
    if name not in JUMP:
        given = mapped(given, lambda tensor: spoilt(random, tensor))
    given = mapped(given, lambda tensor: strided(random, tensor))
    if random.randrange(3) == 0:
        for leaf in leaves(given):
            leaf.requires_grad_(random.random() < 0.5)
    with in_time():
        if random.randrange(10) == 0 and not case.plain:
            return refused(random, name, case, given)
        seed = random.randrange(2**31)

        def grad(result: Tensor) -> Tensor:
            source = torch.Generator().manual_seed(seed)
            narrow = torch.randn(result.shape, generator=source, dtype=torch.float64).to(dtype)
            return narrow.to(result.dtype)

        ours = results_and_gradients(case.function, given, grad)
        if random.randrange(4) == 0:
            again = results_and_gradients(case.function, given, grad)
            for x, y in zip([*ours[0], *ours[1]], [*again[0], *again[1]], strict=True):
                assert torch.equal(x.nan_to_num(), y.nan_to_num()), f"{name}: another result from run to run"
        check(name, case, given, grad, dtype, [*ours[0], *ours[1]])
    return name


def refused(random: Random, name: str, case: Case, given: Arguments) -> str:
    """An argument of another shape, type or content: refused in a sentence, or taken; a crash would end the process."""
    tensors = [(key, number, value) for key, number, value in places(given) if isinstance(value, Tensor)]
    key, number, value = random.choice(tensors)
    plain = value.detach().clone(memory_format=torch.contiguous_format)
    match random.randrange(6):
        case 0:
            wrong = plain[..., :-1] if plain.dim() else plain[None]
        case 1:
            wrong = plain[None]
        case 2:
            wrong = plain.to(random.choice([torch.int64, torch.int32, torch.float64, torch.float16, torch.bool]))
        case 3 if plain.is_floating_point():
            wrong = plain * torch.nan
        case 4 if not plain.is_floating_point() and plain.numel():
            wrong = plain.clone()
            wrong.view(-1)[random.randrange(plain.numel())] = random.choice([-1, -2, 2**31, 10**6])
        case _:
            wrong = plain[:0] if plain.dim() else plain
    try:
        flat(case.function(**changed(given, key, number, wrong)))
    except VlmadaptError as error:
        assert_sentence(str(error).splitlines()[0], ())
    return f"{name}, an argument changed"


def check(
    name: str, case: Case, given: Arguments, grad: Callable[[Tensor], Tensor], dtype: torch.dtype, ours: list[Tensor]
) -> None:
    """Against the reference in float64, within ``TOLERANCE`` and the noise that the condition of the problem makes."""
    exact = converted(given, torch.float64)
    with ops.use_reference():
        truth = _all(results_and_gradients(case.function, exact, grad))
        assert len(truth) == len(ours), f"{name}: {len(ours)} results instead of {len(truth)}"
        if all(_close(x, y, TOLERANCE[dtype] * _size(y)) for x, y in zip(ours, truth, strict=True)):
            return
        moved = []
        for seed in range(3):
            with Rounded(seed):
                moved.append(_all(results_and_gradients(case.function, exact, grad)))
        eager = truth if dtype is torch.float64 else _all(results_and_gradients(case.function, given, grad))
    for place, (x, y) in enumerate(zip(ours, truth, strict=True)):
        noise = max(_gap(each[place], y) for each in moved)
        if dtype is torch.float64:
            noise *= UNIT_64 / UNIT
        if name.split(",")[0] in JUMP and noise > 0:
            continue
        # 16-bit types round more than float32, in which the kernels accumulate: so does eager.
        allowed = TOLERANCE[dtype] * _size(y) + NOISE * noise + EAGER * _gap(eager[place], y)
        assert _close(x, y, allowed), f"{name} {dtype}: result {place} errs by {_gap(x, y):.3g}, allowed {allowed:.3g}"


def _all(results: tuple[list[Tensor], list[Tensor]]) -> list[Tensor]:
    return [*results[0], *results[1]]


def _size(tensor: Tensor) -> float:
    return max(1.0, torch.where(tensor.isfinite(), tensor, 0).double().abs().max().item()) if tensor.numel() else 1.0


def _gap(x: Tensor, y: Tensor) -> float:
    if not x.numel():
        return 0.0
    gap = (x.double() - y.double()).abs()
    return torch.where(x.isfinite() & y.isfinite(), gap, 0).max().item()


def _close(x: Tensor, y: Tensor, allowed: float) -> bool:
    """Beyond the largest number of the type of ``x``, the truth is infinite in it."""
    y = torch.where(y.abs() > torch.finfo(x.dtype).max, y.to(x.dtype).double(), y) if x.is_floating_point() else y
    return x.shape == y.shape and torch.allclose(x.double(), y.double(), rtol=0, atol=allowed, equal_nan=True)
