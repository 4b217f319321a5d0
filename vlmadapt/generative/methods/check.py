"""Does an attached method reach what the model says, and is a text the same with and without a cache? Ours.

A library that renames an argument or calls another function leaves an adapter without effect, or a cache unread, and
nothing fails. So both are tried, on one picture and a few tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlmadapt.doors import known_versions
from vlmadapt.errors import IncompatibleLibrary
from vlmadapt.generative.models.probe import Probe

# Largest difference of logits with and without a cache, as a share of the largest logit: rounding differs.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

# How far parameters are moved from where they are, as shares of their size.
SHARES = (0.1, 1.0, 4.0)


@dataclass(frozen=True)
class Check:
    """What :meth:`Attached.check` found.

    probed: whether the model is one that can be asked. modules: how many added modules reach the output.
    at_start: whether nothing that was added has been trained yet. cached: whether a text was compared with and
    without a cache, and was the same; False for a model that generates none.
    """

    probed: bool
    modules: int
    at_start: bool
    cached: bool

    def __str__(self) -> str:
        if not self.probed:
            return "not checked: the model is not one of those known, pass a probe"
        start = ", still at its start" if self.at_start and self.modules else ""
        cache = "a text is the same with and without a cache" if self.cached else "the model generates no text"
        return f"{self.modules} added modules reach the output{start}; {cache}"


def check_attached(model: nn.Module, added: Mapping[str, nn.Parameter], at_start: bool, probe: Probe | None) -> Check:
    """Ask ``probe`` with every parameter of ``added`` moved a little; the model is left as it was found.

    Raises :class:`IncompatibleLibrary` naming the first added module that changes nothing, or where a cache does.
    """
    modules = sorted({name.rpartition(".")[0] for name in added})
    if probe is None:
        return Check(False, 0, at_start, False)
    with _evaluating(model):
        missing = set(modules)
        for share in SHARES:
            if missing:  # A unit that is cut off at zero may come to life further away.
                with _moved(added, share):
                    missing -= _reached(probe, added)
        if missing:
            raise IncompatibleLibrary(
                f"{min(missing)} changes nothing in what {type(model).__name__} puts out: "
                f"{known_versions(probe.library)}."
            )
        with _moved(added, SHARES[0]), torch.no_grad():
            cached, plain = probe.text(True), probe.text(False)
    if plain is not None and not _same(cached, plain):
        raise IncompatibleLibrary(
            f"{type(model).__name__} says another text with a cache than without: {known_versions(probe.library)}."
        )
    return Check(True, len(modules), at_start, plain is not None)


def _reached(probe: Probe, added: Mapping[str, nn.Parameter]) -> set[str]:
    """Modules with a parameter in which the output has a derivative."""
    if not added:
        return set()
    with torch.enable_grad():
        total = probe.logits().to(torch.float64).square().sum()
        slopes = torch.autograd.grad(total, list(added.values()), allow_unused=True)
    return {
        name.rpartition(".")[0]
        for name, slope in zip(added, slopes, strict=True)
        if slope is not None and bool(slope.ne(0).any())
    }


def _same(cached: object, plain: object) -> bool:
    """Whether the logits of every step agree, up to a step whose words parted over a tie."""
    rows: list[tuple[Tensor, Tensor]] = list(zip(cached.logits, plain.logits, strict=True))  # type: ignore[attr-defined]
    for one, other in rows:
        largest = other.abs().max()
        # Not "greater than": a NaN must not pass.
        if not bool((one - other).abs().max() <= TOLERANCE[_narrowest(one, other)] * largest):
            return False
        if one.argmax() != other.argmax():
            return True
    return True


def _narrowest(one: Tensor, other: Tensor) -> torch.dtype:
    return min(one.dtype, other.dtype, key=lambda dtype: -TOLERANCE[dtype])


@contextmanager
def _moved(added: Mapping[str, nn.Parameter], share: float) -> Iterator[None]:
    """Every parameter ``share`` of its size from where it is; a zero is moved too, since many start there.

    The tensors that hold the values are set aside, not written to.
    """
    generator = torch.Generator().manual_seed(0)
    values = {name: (parameter.data, parameter.requires_grad) for name, parameter in added.items()}
    try:
        for name, parameter in added.items():
            value = values[name][0]
            size = value.double().square().mean().sqrt().item() or max(value.shape[-1:] or (1,)) ** -0.5
            step = share * size * torch.randn(value.shape, generator=generator)
            parameter.data = value + step.to(value.device, value.dtype)
            parameter.requires_grad_(True)
        yield
    finally:
        for name, parameter in added.items():
            parameter.data, flag = values[name]
            parameter.requires_grad_(flag)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
