"""Operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..case import OURS, Verdict, case
from ..judge import judged

NAME = "Operators"

standardised = case(
    NAME,
    "standardised similarities that do not vary: one entry, equal entries, one key a class",
    "scores and gradients of the formula in float64, all finite",
    "standardised cache",
    "ops/test_cache_retrieval_standardized.py::test_scores_and_gradients_are_those_of_the_reference_in_float64",
    "ops/test_cache_retrieval_standardized.py::test_similarities_that_do_not_vary_are_all_the_mean",
)


@standardised.by(OURS)
def _standardised(place: Path) -> list[Verdict]:
    from tests.ops.calls import results_and_gradients
    from tests.ops.test_cache_retrieval_standardized import inputs_of
    from vlmadapt.ops import cache_retrieval, cache_retrieval_reference

    found = []
    for cache in ("one entry", "two equal", "four equal", "a thousand equal"):
        for text in ("", "a class"):
            worst = 0.0
            for seed in range(5):
                inputs: dict[str, Any] = inputs_of(cache, seed, text, torch.float32)
                exact = {
                    name: value.detach().double().requires_grad_()
                    if name != "labels" and isinstance(value, torch.Tensor)
                    else value
                    for name, value in inputs.items()
                }
                (mine,), gradients = results_and_gradients(cache_retrieval, inputs | {"standardize": True})
                (truth,), wanted = results_and_gradients(cache_retrieval_reference, exact | {"standardize": True})
                for one, other in zip((mine, *gradients), (truth, *wanted), strict=True):
                    off = (one.double() - other).abs().max() / max(1.0, other.abs().max().item())
                    worst = max(worst, off.item() if off.isfinite() else float("inf"))
            found.append(
                judged(worst < 1e-5, f"off by {worst:.0e} at most, 5 seeds", f"{cache}{text and ', a text key '}{text}")
            )
    return found


threads = case(
    NAME,
    "one thread and two",
    "equal results and gradients, but where the docs say that last bits differ",
    "promise of equal bits",
    "ops/test_battery.py::test_results_are_the_same_at_every_thread_count",
)


@threads.by(OURS)
def _threads(place: Path) -> Verdict:
    """The calls of the battery of tests; which of them may differ in last bits is said there, and in the docs."""
    from tests.ops.calls import results_and_gradients
    from tests.ops.cases import CASES
    from tests.ops.test_battery import same

    equal, wrong = 0, []
    for name, call in CASES.items():
        arguments = call.draw(torch.float32, **call.large)
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append([tensor for part in results_and_gradients(call.function, arguments) for tensor in part])
        torch.set_num_threads(1)
        equal += all(torch.equal(one, two) for one, two in zip(*results, strict=True))
        try:
            for one, two in zip(*results, strict=True):
                same(call)(one, two)
        except AssertionError:
            wrong.append(name)
    return judged(
        not wrong, f"{equal} of {len(CASES)} calls equal to the bit; against the docs: {', '.join(wrong) or 'none'}"
    )
