"""The kernels of p_laplacian that keep tiles in registers: their results, what goes to them, and how exact they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from .harness.case import Case, Kernel, kernel_cases
from .harness.process import Schedule
from .test_p_laplacian import FORWARD, Inputs, forward_problem, shape
from .test_p_laplacian_cuts import emulation

# Widths of whole 16 bytes; words as in test_p_laplacian.py. One, a tile and one more, several tiles in one part and in
# several, parts without a key; no more columns than a tensor instruction has, and as many as fit; every switch.
SHAPES = [
    shape(1, 1, 1, 1, 8, 8, 8, "scores value"),
    shape(1, 1, 32, 32, 32, 32, 32, "scores value causal diagonal"),
    shape(1, 1, 5, 34, 64, 64, 64, "scores value causal"),
    shape(1, 1, 4, 5, 128, 0, 128, "scores boolean lse"),
    shape(1, 2, 70, 200, 64, 64, 8, "scores value causal diagonal"),
    shape(2, 2, 33, 130, 24, 8, 16, "scores value additive lengths"),
    shape(1, 2, 20, 70, 96, 128, 32, "scores value boolean coincident"),
    shape(1, 2, 66, 40, 16, 104, 120, "scores value lse near"),
    shape(1, 2, 9, 200, 8, 0, 8, "scores none steep"),
    shape(3, 2, 70, 130, 16, 16, 8, "scores value near"),
    shape(1, 1, 66, 130, 8, 8, 8, "scores value"),  # parts of a second tile of queries
    shape(1, 1, 66, 130, 8, 8, 8, "scores value causal"),
    shape(1, 2, 20, 40, 16, 16, 16, "scores value apart"),
    shape(1, 2, 20, 40, 0, 0, 16, "attention apart"),
    shape(1, 2, 7, 4, 8, 8, 8, "scores value boolean causal alone"),
    shape(2, 2, 3, 6, 8, 0, 8, "scores boolean lse far steep"),
    shape(1, 2, 5, 0, 8, 8, 8, "scores value"),
    shape(3, 2, 70, 130, 0, 0, 8, "attention coincident"),
    shape(1, 2, 9, 66, 0, 0, 40, "attention near diagonal none"),
    shape(1, 2, 66, 70, 0, 0, 104, "attention alone"),
    shape(1, 2, 5, 9, 0, 0, 8, "attention diagonal steep"),
    shape(1, 1, 3, 6, 0, 0, 8, "attention negative"),
    shape(1, 2, 3, 0, 0, 0, 8, "attention"),
]
FLASH = Kernel(
    name="p_laplacian_flash_forward",
    driver="p_laplacian.cu",
    function="p_laplacian_forward",
    source="csrc/p_laplacian/flash_forward.cuh:flash_forward_kernel",
    shapes=SHAPES,
    dtypes=["bf16", "f16"],
    problem=forward_problem,
)


@kernel_cases(FLASH)
def test_forward(case: Case) -> None:
    case.check()


def test_every_shape_is_taken() -> None:
    for sizes in SHAPES:
        problem = forward_problem(sizes, "bf16", np.random.default_rng(0))
        process = emulation()
        process.call(FLASH.function, problem.sizes, problem.buffers, Schedule())
        assert process.launches[0] == "flash_forward_kernel", sizes


WIDTHS = {"features": 8, "width": 16, "value_width": 24}
WHERE = ("x_query", "x_value", "query", "key", "value")


def takes_flash(from_scores: int = True, has_value: int = True, released: int = False, **changes: int) -> bool:
    """Widths or addresses other than the usual ones by name."""
    sizes = [(WIDTHS | changes)[name] for name in WIDTHS]
    addresses = [changes.get(name, 4096) for name in WHERE]
    given = [*sizes, int(from_scores), int(has_value), int(released), *addresses]
    return bool(emulation().call("p_laplacian_takes_flash", given, {"out": np.zeros(1, np.int64)}, Schedule())["out"])


def test_rows_of_16_bytes_up_to_128_columns_stay_in_registers() -> None:
    assert takes_flash()
    for name in WIDTHS:
        assert takes_flash(**{name: 128})
        for width in (4, 12, 127, 136):
            assert not takes_flash(**{name: width}), (name, width)
    assert not takes_flash(features=0)
    assert not takes_flash(width=0)
    assert takes_flash(value_width=0)
    for name in WHERE:
        assert takes_flash(**{name: 4096 + 16})
        assert not takes_flash(**{name: 4096 + 8}), name


def test_what_is_not_given_does_not_matter() -> None:
    assert takes_flash(from_scores=False, width=1, value_width=1, query=2, key=2, value=2)
    assert takes_flash(has_value=False, value_width=1, value=2)
    assert not takes_flash(from_scores=False, released=True)


def test_other_types_and_odd_widths_take_the_other_kernel() -> None:
    for dtype, sizes, kernel in [
        ("bf16", (5, 40, 8, 8, 8, "scores value"), "flash_forward_kernel"),
        ("f16", (5, 40, 0, 0, 8, "attention"), "flash_forward_kernel"),
        ("bf16", (5, 40, 8, 4, 8, "scores value"), "forward_kernel"),
        ("f16", (5, 40, 0, 0, 8, "attention keep"), "forward_kernel"),
        ("f32", (5, 40, 8, 8, 8, "scores value"), "forward_kernel"),
    ]:
        problem = forward_problem(shape(1, 2, *sizes), dtype, np.random.default_rng(0))
        process = emulation()
        problem.check(process.call(FORWARD.function, problem.sizes, problem.buffers, Schedule()))
        assert process.launches == [kernel]


# Far and near points, where distances are products and where they are differences.
ACCURACY = [
    shape(1, 2, 64, 128, 64, 64, 8, "scores value"),
    shape(1, 2, 64, 128, 64, 64, 64, "scores value"),
    shape(1, 2, 64, 128, 64, 64, 128, "scores value near"),
    shape(1, 2, 64, 128, 0, 0, 8, "attention"),
    shape(1, 2, 64, 128, 0, 0, 96, "attention near"),
]


def error_of(found: Mapping[str, Any], expected: Mapping[str, np.ndarray], name: str) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(np.asarray(found[name], np.float64) - expected[name]), nan=0.0).max())


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("sizes", ACCURACY, ids=lambda s: "x".join(str(v) for v in s.values()))
def test_error_is_at_most_twice_that_of_eager(sizes: Mapping[str, Any], dtype: str) -> None:
    """Against float64, the median of five draws, eager in float32 from the same 16-bit numbers.

    Weights of bfloat16 are 16 bits of two: an 18th bit of the largest number is allowed besides, a 500th of the
    rounding of the result to bfloat16.
    """
    ours: dict[str, list[float]] = {}
    eager: dict[str, list[float]] = {}
    largest = 0.0
    for seed in range(5):
        problem = forward_problem(sizes, dtype, np.random.default_rng(seed))
        found = emulation().call(FORWARD.function, problem.sizes, problem.buffers, Schedule())
        inputs = Inputs(sizes, dtype, np.random.default_rng(seed))
        inputs.tensors = {name: x.to(torch.float32) for name, x in inputs.tensors.items()}
        for name, x in inputs.run().items():
            ours.setdefault(name, []).append(error_of(found, problem.expected, name))
            eager.setdefault(name, []).append(error_of({name: x.numpy()}, problem.expected, name))
        rows = [inputs.tensors[name] for name in ("x_value", "value") if name in inputs.tensors]
        largest = max(largest, *(float(x.abs().max()) for x in rows))
    for name, errors in ours.items():
        rounding = 2.0**-18 * largest if dtype == "bf16" and name != "lse" else 0.0
        assert np.median(errors) <= 2 * np.median(eager[name]) + rounding, (name, errors, eager[name])
