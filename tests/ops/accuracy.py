"""Is a kernel as accurate as plain PyTorch? Asked over several draws, so that chance decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.ops.draw import generator

DRAWS = 9
UNIT = 2.0**-24  # the largest relative error of rounding to float32, in which all but float64 is accumulated
ALLOWED = 24  # times the noise, see assert_accurate

Function = Callable[..., dict[str, Tensor]]


@dataclass
class Draw:
    """Results by name: ours, eager's in float32, the truth in float64, the truth of inputs moved by ``UNIT``; where
    asked for, eager's in the inputs' type."""

    ours: Mapping[str, Tensor]
    eager: Mapping[str, Tensor]
    exact: Mapping[str, Tensor]
    moved: Mapping[str, Tensor]
    narrow: Mapping[str, Tensor] | None = None


def moved(tensor: Tensor, source: torch.Generator) -> Tensor:
    """In float64, every element changed by ``UNIT`` relatively, up or down: what one more rounding does at worst."""
    signs = torch.randint(0, 2, tensor.shape, generator=source) * 2 - 1
    return tensor.double() * (1 + UNIT * signs)


def draw_of(ours: Function, eager: Function, inputs: Mapping[str, Tensor], seed: int, in_narrow: bool = False) -> Draw:
    """Outputs and gradients, ``grad_`` and the input's name, of a random linear function of the outputs.

    ``inputs`` are of the types that ``ours`` takes; eager gets the same numbers in float32, for eager in a 16-bit type
    would accumulate in that type. ``in_narrow``: that as well.
    """
    narrow = min((x.dtype for x in inputs.values()), key=lambda dtype: dtype.itemsize)

    def results(function: Function, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
        outputs = function(**leaves)
        source, loss = generator(seed + 1000), torch.zeros((), dtype=torch.float64)
        for x in outputs.values():
            if x.requires_grad:  # coefficients that the output's type represents
                loss = loss + (x.double() * torch.randn(x.shape, generator=source).to(narrow).double()).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        named = {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True) if grad is not None}
        return {name: x.detach() for name, x in (outputs | named).items()}

    source = generator(seed + 2000)
    return Draw(
        ours=results(ours, inputs),
        eager=results(eager, {name: x.float() for name, x in inputs.items()}),
        exact=results(eager, {name: x.double() for name, x in inputs.items()}),
        moved=results(eager, {name: moved(x, source) for name, x in inputs.items()}),
        narrow=results(eager, inputs) if in_narrow else None,
    )


def assert_accurate(draw: Callable[[int], Draw], draws: int = DRAWS) -> None:
    """Raise AssertionError unless our results are as accurate as eager's and as the condition of the problem allows.

    Errors are the largest over a result's elements, against the truth in float64. The condition is measured: the change
    of the true result when every input changes by one rounding, c = max |f(x (1 +- u)) - f(x)| with u = 2^-24. An
    algorithm that is backward stable errs by a small multiple of c, whatever cancels on the way, and a result in
    float32 by u max|f| at least. The noise is their sum, its median over the draws: no float32 kernel is blamed for
    less. (Ours.)

    1. The median of our errors is at most twice the median of eager's, or of the noise where eager does better: the
       ratio of two errors of a single draw can be anything (10 was seen between two equally good sums).
    2. In every draw and element |ours - exact| <= ALLOWED noise, eager or not. Kernels were seen at 1 to 10; one that
       loses two decimal digits is at 100 times what it was.
    3. Of results whose draws have eager's in the inputs' type, the gradients need only be better than those: the median
       of their errors is at most that of eager's, the largest at most twice that.
    4. Another result of a 16-bit type is the truth rounded once: in 2 the largest rounding of the element, eps/2
       |exact| or half a subnormal step, is allowed besides, and in 1 the rival is the rounded truth and the factor 1.1.
    """
    drawn = [draw(seed) for seed in range(draws)]
    for name, first in drawn[0].ours.items():
        half = first.dtype.itemsize == 2
        if drawn[0].narrow is not None and half:
            assert_better_than_narrow(name, drawn)
            continue
        ours, exact, changed = (
            [getattr(each, kind)[name].double() for each in drawn] for kind in ("ours", "exact", "moved")
        )
        rivals = [x.to(first.dtype) for x in exact] if half else [each.eager[name] for each in drawn]
        own, other = median_error(ours, exact), median_error(rivals, exact)
        noise = median_error(changed, exact) + UNIT * median_error(exact, [torch.zeros(())] * draws)
        allowed = 1.1 * other + noise if half else 2 * max(other, noise)
        assert own <= allowed, f"{name}: median error {own:.3g}, allowed {allowed:.3g}"
        for seed, (x, truth) in enumerate(zip(ours, exact, strict=True)):
            excess = (x - truth).abs() - (rounding_of(truth, first.dtype) if half else 0)
            worst = excess.max().item() / noise
            assert worst <= ALLOWED, f"{name}: an error of {worst:.3g} times the noise in draw {seed}"


def assert_better_than_narrow(name: str, drawn: list[Draw]) -> None:
    ours, exact = ([getattr(each, kind)[name].double() for each in drawn] for kind in ("ours", "exact"))
    own, other = median_error(ours, exact), median_error([(each.narrow or {})[name] for each in drawn], exact)
    assert own <= other, f"{name}: median error {own:.3g}, eager's {other:.3g}"
    worst = max(median_error([x], [truth]) for x, truth in zip(ours, exact, strict=True))
    assert worst <= 2 * other, f"{name}: error {worst:.3g}, eager's {other:.3g}"


def median_error(results: list[Tensor], exact: list[Tensor]) -> float:
    """NaN if any result holds one, and so never within a bound."""
    errors = [(x.double() - truth).abs().max() for x, truth in zip(results, exact, strict=True)]
    return torch.stack(errors).median().item()


def rounding_of(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest error of rounding each element to ``dtype``."""
    limits = torch.finfo(dtype)
    return limits.eps / 2 * exact.abs().clamp(min=limits.tiny)
