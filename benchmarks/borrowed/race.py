"""What a race is: one operation on one shape and type, its rivals, and the work that none of them can do without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.borrowed.child import Child
from benchmarks.borrowed.timer import TooSlow, clock, device_times, timed_row
from benchmarks.rivals import MissingRival

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
Function = Callable[..., object]


@dataclass(frozen=True)
class Race:
    """``work`` is counted once: FLOPs by the unit that does them, bytes of every input and output by the memory.

    ``rivals`` make a function of the inputs when their turn comes, so that one that cannot be made costs nothing else.
    ``other_work``: of rivals that go another way. ``other_results``: rivals whose result is not that of ``exact``.
    """

    group: str
    shape: str
    dtype: str
    inputs: Sequence[Tensor]
    work: dict[str, float]
    rivals: dict[str, Callable[[], Function]]
    exact: Callable[[], Tensor] | None = None
    hot: tuple[str, ...] = ("ours",)  # rivals that are timed with a warm L2 cache as well
    other_work: dict[str, dict[str, float]] = field(default_factory=dict)
    other_results: tuple[str, ...] = ()


def compiled(function: Function) -> Function:
    """By torch.compile, afresh: what was compiled before may be for another setting of TF32. Only traced on a CPU."""
    torch._dynamo.reset()
    on_device = torch.get_default_device().type == "cuda"
    return torch.compile(function, dynamic=False, backend="inductor" if on_device else "eager")


def differentiated(
    rivals: dict[str, Callable[[], Function]], names: Sequence[str]
) -> dict[str, Callable[[], Function]]:
    """The rivals of these names, forward and backward: gradients of all inputs through all results."""

    def step_of(make: Callable[[], Function]) -> Function:
        function = make()
        grads: list[Tensor] = []

        def step(*inputs: Tensor) -> object:
            found: Any = function(*inputs)
            results: list[Tensor] = list(found) if isinstance(found, list | tuple) else [found]
            if not grads:  # drawn at the first call, so that no later one pays for it
                grads.extend(torch.rand_like(result) * 2 - 1 for result in results)
            return torch.autograd.grad(results, inputs, grads, allow_unused=True)

        return step

    return {name: (lambda name=name: step_of(rivals[name])) for name in names if name in rivals}  # type: ignore[misc]


def error_of(race: Race, function: Function) -> float | None:
    """The largest difference from float64 as a share of the largest value; NaN counts as infinite."""
    if race.exact is None:
        return None
    with torch.no_grad():
        result = function(*race.inputs)
        try:
            wanted = race.exact()
        except torch.OutOfMemoryError:  # a time without an error is worth having
            return None
    if not isinstance(result, Tensor) or result.shape != wanted.shape:
        return None
    gap = (result.double() - wanted).abs().max() / wanted.abs().max()
    return float(gap.nan_to_num(nan=torch.inf))


def run_races(child: Child, races: Callable[[bool], Iterator[Race]]) -> None:
    """Every rival of every race as a row, written when it is known; one that fails is a row too.

    Those that torch.compile makes come last, in a second round: each takes as long as many of the others.
    """
    ceilings = child.log.ceilings()
    for race, late in ((race, late) for late in (False, True) for race in races(child.dry)):
        torch.backends.cuda.matmul.fp32_precision = "tf32" if race.dtype == "tf32" else "ieee"
        known = {"phase": child.phase, "group": race.group, "shape": race.shape, "dtype": race.dtype}
        for rival, made in race.rivals.items():
            if ("compiled" in rival) != late:
                continue
            if child.left() < 2:
                return
            try:
                function = made()
                error = None if rival in race.other_results else error_of(race, function)
                for l2 in ("cold", "hot") if rival in race.hot else ("cold",):
                    times = device_times(lambda x, f=function: f(*x), race.inputs, l2 == "cold")  # type: ignore[misc]
                    work = race.other_work.get(rival, race.work)
                    if l2 == "hot":  # nothing need come from memory
                        work = {name: amount for name, amount in work.items() if name != "copy"}
                    row = timed_row(times, work, ceilings) | {"error": error, "clock_mhz": clock()}
                    child.log.write("time", **known, rival=rival, l2=l2, **row)
                    print(known, rival, l2, f"{times.median:.4f} ms", row.get("refused", ""), flush=True)
            except (MissingRival, TooSlow, ImportError, torch.OutOfMemoryError) as error_:
                child.log.write("left out", **known, rival=rival, reason=str(error_)[:300])
            except Exception as error_:  # one rival's failure is no reason to lose the others
                child.log.write("left out", **known, rival=rival, reason=f"{type(error_).__name__}: {error_}"[:300])
