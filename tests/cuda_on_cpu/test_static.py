"""What nvcc must say of the kernels: no spills anywhere, tensor cores and wide loads where they are meant."""

from __future__ import annotations

import re

import pytest

from .harness import toolchain
from .static_evidence import ARCHITECTURES, evidence, floor_ms, markdown, retrieval_cost


@pytest.mark.parametrize(
    "arch",
    [pytest.param(a, marks=[pytest.mark.cuda_full] + [pytest.mark.cuda_quick] * (a == "sm_80")) for a in ARCHITECTURES],
)
def test_static_evidence(arch: str, tables: dict[str, list[str]]) -> None:
    if toolchain.nvcc() is None:
        pytest.skip("no nvcc on PATH: kernels are not compiled for GPUs")
    rows = evidence(arch)
    assert len(rows) >= 20
    tables[f"static evidence {arch}"] = markdown(rows).splitlines()
    for r in rows:
        assert r.spill_bytes == 0, f"{r.kernel} spills {r.spill_bytes} bytes on {arch}"
        assert r.blocks_a_multiprocessor >= 1, f"{r.kernel} does not fit on {arch}"
        if r.tensor_instructions is not None and re.search(r"^(forward|backward|dense)_kernel<\w+Product", r.kernel):
            assert (r.tensor_instructions > 0) == ("TensorProduct" in r.kernel), r
            assert r.wide_loads, f"{r.kernel} has no 128-bit loads on {arch}"
        if r.wide_loads is not None and re.match(r"aggregate_kernel<\w+, \w+, true", r.kernel):
            assert r.wide_loads, f"{r.kernel} has no 128-bit loads on {arch}"
            # Four source rows are on their way before the first is added: two loads a lane of float, one of 16 bits.
            rows_waited_for = 2 if "<double" in r.kernel and r.kernel.endswith("true>") else 4
            loads = rows_waited_for * (2 if re.search("<(float|double)", r.kernel) else 1)
            assert r.loads_in_flight is not None and r.loads_in_flight >= loads, f"{r.kernel} on {arch}: {r}"


def test_floor_times() -> None:
    moved, flops = retrieval_cost(1000, 16000, 1000, 512, 4)["forward"]
    assert flops == 2 * 1000 * 16000 * 512
    assert moved > 4 * (1000 * 512 + 16000 * 512 + 1000 * 1000)
    # 16.4 GFLOP at 19.5 TFLOP/s takes longer than 39 MB at 2 TB/s.
    assert floor_ms(moved, flops, "fp32", "A100 80GB") == pytest.approx(flops / 19.5e12 * 1e3)
