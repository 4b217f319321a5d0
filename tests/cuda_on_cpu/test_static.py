"""What nvcc must say of the kernels: no spills anywhere, tensor cores and wide loads where they are meant."""

from __future__ import annotations

import re

import pytest

from .harness import toolchain
from .static_evidence import (
    ARCHITECTURES,
    Instruction,
    Loop,
    evidence,
    floor_ms,
    inner_loops,
    kernels_of,
    largest_loop,
    loops_of,
    markdown,
    retrieval_cost,
    straight_runs,
)

EVERY_ARCHITECTURE = [
    pytest.param(a, marks=[pytest.mark.cuda_full] + [pytest.mark.cuda_quick] * (a == "sm_80")) for a in ARCHITECTURES
]


@pytest.mark.parametrize("arch", EVERY_ARCHITECTURE)
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


@pytest.mark.parametrize("arch", EVERY_ARCHITECTURE)
def test_shared_loads_of_p_laplacian(arch: str, tables: dict[str, list[str]]) -> None:
    """In the inner loops, four FP32 instructions or more a load from shared memory, or the loads bind.

    On tensor cores, few instructions for each of theirs: of products, and of sums of rows a chunk's with the chunk's
    loads and stores, and weights in two parts each.
    """
    if toolchain.nvcc() is None:
        pytest.skip("no nvcc on PATH: kernels are not compiled for GPUs")
    loops = loops_of("p_laplacian", arch)
    if loops is None:
        pytest.skip("no cuobjdump: the machine code is not read")
    floats = {name: found for name, found in loops.items() if re.match(r"(forward|backward)_kernel<(?!double)", name)}
    assert len(floats) == 6 + 12
    for name, all_loops in floats.items():
        found = [loop for loop in all_loops if loop.shared_loads]
        # Forward: distances, with and without sums of differences, and one product; or two products, distances, two
        # products. Backward: of pairs and of rows two products or more, one of each of differences.
        assert len(found) >= 3, name
        # Of 16-bit types the scores, and sums of rows that are no gradients.
        on_tensor_cores = "<float" not in name and (name.startswith("forward") or ", true, " in name)
        assert any(x.tensor for x in found) == on_tensor_cores, name
        tables.setdefault(f"inner loops {arch}", []).append(
            f"{name}: "
            + ", ".join(
                f"{x.shared_loads} loads, {x.arithmetic} FP32, {x.tensor} tensor of {x.instructions}" for x in found
            )
        )
        for loop in found:
            if loop.tensor:
                assert loop.instructions <= (20 if loop.arithmetic else 4) * loop.tensor, f"{name} on {arch}: {loop}"
            else:
                assert 4 * loop.shared_loads <= loop.arithmetic, f"{name} on {arch}: {loop}"


@pytest.mark.parametrize("arch", EVERY_ARCHITECTURE)
def test_tiles_of_p_laplacian_stay_in_registers(arch: str, tables: dict[str, list[str]]) -> None:
    """Nothing is stored on the walk over the keys but norms; few slots for each tensor instruction.

    Five instructions or fewer for each, in the sums of rows on some architectures with the packing of weights. Where
    distances are differences, 25 FP32 instructions a load of 16 bytes.
    """
    if toolchain.nvcc() is None:
        pytest.skip("no nvcc on PATH: kernels are not compiled for GPUs")
    kernels = kernels_of("p_laplacian", arch)
    if kernels is None:
        pytest.skip("no cuobjdump: the machine code is not read")
    flash = {name: kernel for name, kernel in kernels.items() if name.startswith("flash_forward_kernel")}
    assert len(flash) == 8
    for name, kernel in flash.items():
        scores = ", true, " in name
        walk, loops = largest_loop(kernel), inner_loops(kernel)
        assert walk["STG"] == 0 and walk["STS"] <= 4, f"{name} on {arch}: {walk}"
        assert walk["LDGSTS"] == 4 * (3 if scores else 1) and walk["BAR"] == 2, f"{name} on {arch}: {walk}"
        products = [loop for loop in loops if loop.tensor > 2]
        # A step of a product of pairs has a tensor instruction for eight keys; a tile's sums of rows have 64.
        runs = [run for run in straight_runs(kernel) if run["HMMA"] > 2]
        slots = [f"{run.total()}/{run['HMMA']}" for run in runs]
        tables.setdefault(f"tiles in registers {arch}", []).append(f"{name}: instructions/tensor {', '.join(slots)}")
        keys, sums = 32 if name.endswith("128>") else 64, 2 if scores else 1
        assert [loop.tensor for loop in products] == [keys // 8] * (1 + scores), name
        assert sum(run["HMMA"] for run in runs) == 64 * sums + keys // 8 * (1 + scores), f"{name} on {arch}"
        for run in runs:
            assert run.total() <= 5 * run["HMMA"], f"{name} on {arch}: {run}"
        differences = max(loops, key=lambda loop: loop.arithmetic)
        assert 25 * differences.shared_loads <= differences.arithmetic, f"{name} on {arch}: {differences}"


@pytest.mark.parametrize("arch", EVERY_ARCHITECTURE)
def test_loads_of_chunks_are_on_their_way_together(arch: str, tables: dict[str, list[str]]) -> None:
    """All that is read of four keys, before the first exponential: a warp waits twice, not eight times."""
    if toolchain.nvcc() is None:
        pytest.skip("no nvcc on PATH: kernels are not compiled for GPUs")
    loops = loops_of("cache_retrieval_chunked", arch)
    if loops is None:
        pytest.skip("no cuobjdump: the machine code is not read")
    # Places in the order, or labels; products, of two streams both; of weights, grad_scores, and multiplicities where
    # the loop is not made twice, with and without.
    wanted = {"class_sums_kernel<float, false>": 8, "class_sums_kernel<float, true>": 12}
    wanted |= {"weights_kernel<float, false>": 12, "weights_kernel<float, true>": 12}
    for name, loads in wanted.items():
        exponentials = [found for found in loops[name] if found.early_loads]
        assert exponentials, f"{name} on {arch}: no loop"
        for loop in exponentials:
            tables.setdefault(f"loops of chunks {arch}", []).append(
                f"{name}: {loop.global_loads} loads, {loop.instructions} instructions for four keys"
            )
            assert loop.global_loads >= loads, f"{name} on {arch}: {loop}"
            late = arch in ("sm_100", "sm_120")  # where the compiler leaves one load behind the first exponential
            assert loop.early_loads >= loop.global_loads - late, f"{name} on {arch}: {loop}"


@pytest.mark.parametrize("arch", EVERY_ARCHITECTURE)
def test_loads_of_few_queries(arch: str, tables: dict[str, list[str]]) -> None:
    """Four keys at once: 16 multiplications or more for each load of a query, and each load of a key is of 16 bytes."""
    if toolchain.nvcc() is None:
        pytest.skip("no nvcc on PATH: kernels are not compiled for GPUs")
    loops = loops_of("cache_retrieval_few", arch)
    if loops is None:
        pytest.skip("no cuobjdump: the machine code is not read")
    products = {name: found for name, found in loops.items() if re.match(r"few_kernel<(?!double)", name)}
    assert len(products) == 9
    for name, found in products.items():
        largest = max(found, key=lambda loop: loop.arithmetic)
        tables.setdefault(f"loops of few queries {arch}", []).append(f"{name}: {largest}")
        steps = 1 if name.endswith(", 16>") else 2
        assert largest.global_loads == 4 * steps, f"{name} on {arch}: {largest}"
        assert 16 * largest.shared_loads <= largest.arithmetic, f"{name} on {arch}: {largest}"


def test_inner_loops_are_those_that_hold_no_other() -> None:
    names = ["MOV", "LDS.128", "FFMA", "FADD.FTZ", "BRA", "LDS", "BRA", "FMUL", "BRA", "BRA"]
    targets = {4: "`(.L_x), 0x10", 6: "0x50", 8: "0x00", 9: "0x200"}
    code = [Instruction(16 * i, name, targets.get(i, "R1, R2, 0x4")) for i, name in enumerate(names)]
    assert inner_loops(code) == [Loop(instructions=4, shared_loads=1, arithmetic=2)]
    apart = [Instruction(0x200, "LDS", ""), Instruction(0x210, "FADD", ""), Instruction(0x220, "BRA", "0x30")]
    assert inner_loops(code[:5] + apart) == inner_loops(code)


def test_floor_times() -> None:
    moved, flops = retrieval_cost(1000, 16000, 1000, 512, 4)["forward"]
    assert flops == 2 * 1000 * 16000 * 512
    assert moved > 4 * (1000 * 512 + 16000 * 512 + 1000 * 1000)
    # 16.4 GFLOP at 19.5 TFLOP/s takes longer than 39 MB at 2 TB/s.
    assert floor_ms(moved, flops, "fp32", "A100 80GB") == pytest.approx(flops / 19.5e12 * 1e3)
