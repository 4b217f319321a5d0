"""What ``auto`` is made of: methods at fixed settings, and about what a fit of each costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vlmadapt.adapters.proker import DIRECT
from vlmadapt.errors import InputError


@dataclass(frozen=True)
class Size:
    """n samples, C classes, features of width D."""

    n: int
    classes: int
    width: int


@dataclass(frozen=True)
class Part:
    """``cost`` is about how many multiplications a fit takes; ``keeps_cache`` says whether it can explain."""

    adapter: str
    cost: Callable[[Size], float]
    settings: dict[str, Any] = field(default_factory=dict)


def _epochs(number: int, per_sample: Callable[[Size], float]) -> Callable[[Size], float]:
    """A step forward and backward takes three times the product."""
    return lambda size: 3.0 * number * size.n * per_sample(size)


def _classifier(size: Size) -> float:
    return float(size.classes * size.width)


def _cache(size: Size) -> float:
    return float((size.n + size.classes) * size.width)


def _covariance(size: Size) -> float:
    return float((size.n + size.width) * size.width**2)


def _kernel(size: Size) -> float:
    """One solution: of a kernel that is held, or by some fifty products with one that is not."""
    product = float(size.n**2 * (size.width + size.classes))
    return product + size.n**3 / 3 if size.n <= DIRECT else 50 * product


# By name; each at settings that need no validation, some at several. The iterations of the linear probe are a guess.
PARTS: dict[str, Part] = {
    "zero-shot": Part("zero-shot", lambda size: 0.0),
    "taskres": Part("taskres", _epochs(100, _classifier), {"search_scale": False}),
    "lp++": Part("lp++", _epochs(300, _classifier), {"search_scale": False}),
    "linear-probe": Part("linear-probe", _epochs(200, lambda size: size.classes * min(size.width, size.n))),
    "clap": Part("clap", _epochs(100, _classifier)),
    "ncm-0.1": Part("ncm", _classifier, {"alpha": 0.1}),
    "ncm-1": Part("ncm", _classifier, {"alpha": 1.0}),
    "gda-0.01": Part("gda", _covariance, {"alpha": 0.01, "extendable": False}),
    "gda-0.1": Part("gda", _covariance, {"alpha": 0.1, "extendable": False}),
    "gda-1": Part("gda", _covariance, {"alpha": 1.0, "extendable": False}),
    "proker-0.1": Part("proker", _kernel, {"lam": 0.1}),
    "proker-1": Part("proker", _kernel, {"lam": 1.0}),
    "tip-adapter-f": Part("tip-adapter-f", _epochs(20, _cache)),
    "xmadapter": Part("xmadapter", _epochs(20, lambda size: _cache(size) + 4 * size.width**2)),
    "hegraph": Part("hegraph", _epochs(20, lambda size: _cache(size) + 3 * size.classes**2 * size.width / 256)),
}
DEFAULT = tuple(PARTS)


def chosen(names: tuple[str, ...]) -> dict[str, Part]:
    """The parts of these ``names``. Raises :class:`InputError` for an unknown one, none, or one named twice."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise InputError(f"AutoConfig.parts holds {unknown[0]!r}: use some of {', '.join(PARTS)}.")
    if not names or len(set(names)) < len(names):
        raise InputError(f"AutoConfig.parts is {names!r}: name at least one part, each once.")
    return {name: PARTS[name] for name in names}


def differing(parts: dict[str, Part]) -> dict[str, Part]:
    """The first of those that differ in nothing but their weight against the text: without text they are one."""
    seen, kept = list[Any](), dict[str, Part]()
    for name, part in parts.items():
        rest = part.adapter, {key: value for key, value in part.settings.items() if key != "alpha"}
        if rest not in seen:
            seen.append(rest)
            kept[name] = part
    return kept


def affordable(parts: dict[str, Part], size: Size, fits: int, most: float) -> dict[str, Part]:
    """Those of ``parts``, the cheapest first, whose ``fits`` fits together cost at most ``most``; in their order."""
    left, kept = most, set[str]()
    for name in sorted(parts, key=lambda name: parts[name].cost(size)):
        left -= fits * parts[name].cost(size)
        if left >= 0 or not kept:
            kept.add(name)
    return {name: part for name, part in parts.items() if name in kept}
