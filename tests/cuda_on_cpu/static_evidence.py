"""What nvcc says about the kernels, a kernel and an architecture a row: nothing here is measured on a GPU.

    python -m tests.cuda_on_cpu.static_evidence [--markdown docs/cuda_static.md] [--arch sm_80 ...]

Registers, spills and shared memory from ptxas; 128-bit loads and tensor-core instructions from the SASS (cuobjdump,
where there is one); occupancy from NVIDIA's header. `floor_ms` gives the time below which a device cannot go for the
bytes and FLOPs an operation must move and do: computed from published peaks.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from .harness import toolchain
from .harness.build import CACHE, HERE, REPOSITORY, Target, _key, _made_once, _run, dependencies
from .harness.case import worker
from .harness.numbers import DTYPE_CODE
from .harness.process import Schedule

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
OPERATIONS = (
    "cache_retrieval",
    "cache_retrieval_chunked",
    "cache_retrieval_dense",
    "cache_retrieval_few",
    "hetero_aggregate",
    "p_laplacian",
    "attention_column_sums",
)
THREADS = {
    "forward_kernel": 128, "backward_kernel": 128, "dense_kernel": 128, "accuracy_kernel": 128, "aggregate_kernel": 128,
    "segment_kernel": 128, "merge_kernel": 128, "reduce_kernel": 128,
    "row_sum_kernel": 128, "lse_kernel": 128, "sums_kernel": 128, "mean_kernel": 128, "gradient_kernel": 128,
    "describe_kernel": 16, "flash_forward_kernel": 128,
}  # the rest: 256  # fmt: skip

FEW_WIDTH = 512  # of the rows that few_kernel's shared memory is counted for

# Dense peaks from the data sheets of the SXM parts: TFLOP/s by the way products are done, and TB/s of memory.
DEVICES = {
    "A100 80GB": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0, "memory": 2.039},
    "H100": {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4, "memory": 3.35},
}


def floor_ms(bytes_moved: float, flops: float, how: str, device: str) -> float:
    """Computed, not measured: the larger of memory time and arithmetic time at the device's peaks."""
    peak = DEVICES[device]
    return 1e3 * max(bytes_moved / (peak["memory"] * 1e12), flops / (peak[how] * 1e12))


def retrieval_cost(b: int, n: int, c: int, d: int, element: int) -> dict[str, tuple[float, float]]:
    """Compulsory (bytes, FLOPs) of cache_retrieval, one stream: every input read once, every output written once."""
    inputs = element * (b * d + n * d) + 8 * (n + c)
    forward = (inputs + 4 * b * c, 2.0 * b * n * d)
    backward = (inputs + 4 * b * c + 4 * (b * d + n * d), 8.0 * b * n * d)
    return {"forward": forward, "backward": backward}


@dataclass
class Row:
    kernel: str
    arch: str
    registers: int
    spill_bytes: int
    stack_bytes: int
    static_shared: int
    dynamic_shared: int
    blocks_a_multiprocessor: int
    occupancy: float
    wide_loads: int | None  # LDG.128 and LDGSTS.128; None without a disassembler
    tensor_instructions: int | None
    loads_in_flight: int | None = None  # 128-bit loads that nothing multiplied stands between, at most


def cubin(source: Path, arch: str) -> tuple[Path, str]:
    """The cubin and ptxas's report; cached by content."""
    folders = [REPOSITORY / "csrc"]
    key = _key(dependencies(source, folders), arch, toolchain.nvcc_version())
    path = CACHE / f"{source.parent.name}-{arch}-{key}.cubin"
    report = path.with_suffix(".ptxas")
    with _made_once(path) as fresh:
        if fresh:
            command = [str(toolchain.nvcc()), "-std=c++17", f"-arch={arch}", f"-I{folders[0]}", "-Xptxas", "-v"]
            done = subprocess.run([*command, "-cubin", str(source), "-o", str(fresh)], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            report.write_text(done.stderr)
    return path, report.read_text()


def demangle(names: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [re.sub(r"^void |vlmadapt::\w+::|\(.*\)$", "", n) for n in done.stdout.splitlines()]


def ptxas_rows(report: str) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    row: dict[str, int] = {}
    for line in report.splitlines():
        if m := re.search(r"Compiling entry function '(\S+)'", line):
            row = rows.setdefault(m[1], {})
        if m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            row["stack"], row["spill"] = int(m[1]), int(m[2]) + int(m[3])
        if m := re.search(r"Used (\d+) registers", line):
            row["registers"] = int(m[1])
            shared = re.search(r"(\d+) bytes smem", line)
            row["shared"] = int(shared[1]) if shared else 0
    return rows


class Instruction(NamedTuple):
    address: int
    name: str  # with its modifiers
    operands: str


def machine_code(path: Path) -> dict[str, list[Instruction]] | None:
    """By mangled kernel name; None without a disassembler."""
    tool = toolchain.disassembler("cuobjdump")
    if tool is None:
        return None
    text = subprocess.run([tool, "-sass", str(path)], capture_output=True, text=True, check=True).stdout
    code: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if m := re.search(r"Function : (\S+)", line):
            current = code.setdefault(m[1], [])
        elif m := re.match(r"\s+/\*([0-9a-f]{4,6})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);", line):
            current.append(Instruction(int(m[1], 16), m[2], m[3]))
    return code


def sass_counts(path: Path) -> dict[str, collections.Counter[str]] | None:
    code = machine_code(path)
    if code is None:
        return None
    return {name: counts_of(kernel) for name, kernel in code.items()}


def counts_of(kernel: list[Instruction]) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    for i in kernel:
        counts["wide"] += bool(re.match(r"LDG(STS)?\b.*\.128", i.name))
        counts["tensor"] += bool(re.match(r"(HMMA|HGMMA)\b", i.name))  # not HFMA2.MMA, which is no tensor core
        if re.match(r"LDG\b.*\.128", i.name):
            counts["waiting"] += 1
            counts["in flight"] = max(counts["in flight"], counts["waiting"])
        elif re.match(r"[DFH]?(FMA|MUL|ADD)\b|HFMA2", i.name):
            counts["waiting"] = 0
    return counts


@dataclass(frozen=True)
class Loop:
    """One that holds no other: its instructions, loads from shared memory among them, FP32 and tensor arithmetic.

    Loads from global memory, and those of them that come before the first exponential.
    """

    instructions: int
    shared_loads: int
    arithmetic: int
    tensor: int = 0
    global_loads: int = 0
    early_loads: int = 0


def back_jumps(kernel: list[Instruction]) -> list[tuple[int, int]]:
    """Addresses of the first and last instruction of every loop."""
    jumps = {
        (int(target[1], 16), i.address)
        for i in kernel
        if i.name.startswith("BRA") and (target := re.search(r"0x([0-9a-f]+)\s*$", i.operands))
    }
    return sorted((to, at) for to, at in jumps if to <= at)


def largest_loop(kernel: list[Instruction]) -> collections.Counter[str]:
    """What the longest loop is made of, inner loops and all, by the instructions' names without modifiers."""
    start, end = max((jump for jump in back_jumps(kernel)), key=lambda jump: jump[1] - jump[0])
    return collections.Counter(i.name.split(".")[0] for i in kernel if start <= i.address <= end)


def straight_runs(kernel: list[Instruction]) -> list[collections.Counter[str]]:
    """What is executed from a jump, or a place that is jumped to, up to the next."""
    targets = {
        int(target[1], 16)
        for i in kernel
        if i.name.startswith("BRA") and (target := re.search(r"0x([0-9a-f]+)\s*$", i.operands))
    }
    runs = [collections.Counter[str]()]
    for i in kernel:
        if i.address in targets and runs[-1]:
            runs.append(collections.Counter())
        runs[-1][i.name.split(".")[0]] += 1
        if i.name.startswith("BRA"):
            runs.append(collections.Counter())
    return runs


def inner_loops(kernel: list[Instruction]) -> list[Loop]:
    """Those that load and calculate, in the order of the code."""
    back = back_jumps(kernel)
    found = []
    for start, end in back:
        if any(start <= a and b <= end and (a, b) != (start, end) for a, b in back):
            continue
        if any(a < start <= b < end for a, b in back):  # code apart from a loop's that jumps back into it
            continue
        names = [i.name.split(".")[0] for i in kernel if start <= i.address <= end]
        loads, far = names.count("LDS") + names.count("LDSM"), names.count("LDG")
        arithmetic, tensor = sum(n in ("FFMA", "FADD", "FMUL") for n in names), names.count("HMMA")
        before = names[: names.index("MUFU")] if "MUFU" in names else []
        if (arithmetic or tensor) and (loads or far):
            found.append(Loop(len(names), loads, arithmetic, tensor, far, before.count("LDG")))
    return found


def kernels_of(operation: str, arch: str) -> dict[str, list[Instruction]] | None:
    """Machine code by the name of the kernel; None without a disassembler."""
    code = machine_code(cubin(REPOSITORY / "csrc" / operation / "cuda.cu", arch)[0])
    return None if code is None else dict(zip(demangle(list(code)), code.values(), strict=True))


def loops_of(operation: str, arch: str) -> dict[str, list[Loop]] | None:
    kernels = kernels_of(operation, arch)
    return None if kernels is None else {name: inner_loops(kernel) for name, kernel in kernels.items()}


def dynamic_shared(name: str) -> int:
    """What the launcher would ask for, from the kernel headers themselves through route A's library."""
    import numpy as np

    products = ["FmaProduct<float>", "FmaProduct<double>", "TensorProduct<float>", "TensorProduct<__nv_bfloat16>",
                "TensorProduct<__half>"]  # fmt: skip
    index = next((i for i, p in enumerate(products) if p in name), None)
    if few := re.match(r"few_kernel<(\w+), (\d+)>", name):
        target = Target(HERE / "drivers" / "cache_retrieval_few.cu")
        dtype = {"float": "f32", "double": "f64"}.get(few[1], "f16")
        sizes = worker(target).call(
            "few_shared_bytes", [DTYPE_CODE[dtype], int(few[2]), FEW_WIDTH], {"out": np.zeros(1, np.int64)}, Schedule()
        )
        return int(sizes["out"][0])
    if name.startswith("dense_kernel"):
        target = Target(HERE / "drivers" / "cache_retrieval_dense.cu")
        sizes = worker(target).call("dense_shared_bytes_of", [], {"out": np.zeros(5, np.int64)}, Schedule())
        return int(sizes["out"][index])
    if name.startswith(("lse_kernel", "sums_kernel", "mean_kernel", "gradient_kernel")):
        target = Target(HERE / "drivers" / "attention_column_sums.cu")
        sizes = worker(target).call(
            "attention_column_sums_shared_bytes", [], {"out": np.zeros(2, np.int64)}, Schedule()
        )
        return int(sizes["out"][int("<double" in name)])
    if flash := re.match(r"flash_forward_kernel<\w+, (\w+), (\d+)>", name):
        target = Target(HERE / "drivers" / "p_laplacian.cu")
        sizes = worker(target).call(
            "p_laplacian_flash_shared_bytes", [], {"out": np.zeros((2, 2), np.int64)}, Schedule()
        )
        return int(sizes["out"][int(flash[1] == "true"), int(flash[2] == "128")])
    if not name.startswith(("forward_kernel", "backward_kernel")):
        return 0
    if index is None:  # p_laplacian's: by the accumulation type
        target = Target(HERE / "drivers" / "p_laplacian.cu")
        sizes = worker(target).call("p_laplacian_shared_bytes", [], {"out": np.zeros((2, 2), np.int64)}, Schedule())
        return int(sizes["out"][int("<double" in name), int(name.startswith("backward"))])
    target = Target(HERE / "drivers" / "cache_retrieval.cu")
    sizes = worker(target).call("cache_shared_bytes", [], {"out": np.zeros((5, 2), np.int64)}, Schedule())
    return int(sizes["out"][index, int(name.startswith("backward"))])


def occupancy(arch: str, rows: list[tuple[int, int, int, int]]) -> list[tuple[int, int]]:
    """(blocks, thread limit) of a multiprocessor for rows of (registers, threads, static, dynamic shared bytes)."""
    source = HERE / "static" / "occupancy.cpp"
    program = CACHE / f"occupancy-{_key({source}, toolchain.nvcc_version())}"
    with _made_once(program) as fresh:
        if fresh:
            headers = ["-isystem", str(toolchain.cuda_include())]
            _run([str(toolchain.gxx()), "-std=c++17", "-w", *headers, str(source), "-o", str(fresh)])
    lines = "\n".join(f"{arch.removeprefix('sm_')} {' '.join(map(str, r))}" for r in rows)
    out = subprocess.run([str(program)], input=lines, capture_output=True, text=True, check=True).stdout
    return [(int(a), int(b)) for a, b in (line.split() for line in out.splitlines())]


def evidence(arch: str) -> list[Row]:
    return [row for operation in OPERATIONS for row in evidence_of(operation, arch)]


def evidence_of(operation: str, arch: str) -> list[Row]:
    path, report = cubin(REPOSITORY / "csrc" / operation / "cuda.cu", arch)
    said, sass = ptxas_rows(report), sass_counts(path)
    names = demangle(list(said))
    threads = [next((t for k, t in THREADS.items() if n.startswith(k)), 256) for n in names]
    dynamic = [dynamic_shared(n) for n in names]
    asked = [(r["registers"], t, r["shared"], d) for r, t, d in zip(said.values(), threads, dynamic, strict=True)]
    active = occupancy(arch, asked)
    return sorted(
        (
            Row(
                kernel=name,
                arch=arch,
                registers=row["registers"],
                spill_bytes=row["spill"],
                stack_bytes=row["stack"],
                static_shared=row["shared"],
                dynamic_shared=d,
                blocks_a_multiprocessor=blocks,
                occupancy=blocks * t / limit,
                wide_loads=sass[mangled]["wide"] if sass else None,
                tensor_instructions=sass[mangled]["tensor"] if sass else None,
                loads_in_flight=sass[mangled]["in flight"] if sass else None,
            )
            for (mangled, row), name, t, d, (blocks, limit) in zip(
                said.items(), names, threads, dynamic, active, strict=True
            )
        ),
        key=lambda r: r.kernel,
    )


def markdown(rows: list[Row]) -> str:
    head = "| kernel | arch | registers | spills | shared (KiB) | blocks/SM | occupancy | 128-bit loads | tensor ops |"
    out = [head, "|" + "---|" * 9]
    for r in rows:
        shared = (r.static_shared + r.dynamic_shared) / 1024
        counts = ["?" if x is None else str(x) for x in (r.wide_loads, r.tensor_instructions)]
        out.append(
            f"| `{r.kernel}` | {r.arch} | {r.registers} | {r.spill_bytes} | {shared:.1f} | {r.blocks_a_multiprocessor} "
            f"| {r.occupancy:.0%} | {counts[0]} | {counts[1]} |"
        )
    return "\n".join(out)


def floor_markdown() -> str:
    out = ["| shape (B, n, C, D) | pass | type | MB | GFLOP | A100, ms | H100, ms |", "|" + "---|" * 7]
    for b, n, c, d in [(256, 1600, 100, 512), (1000, 16000, 1000, 512), (64, 16000, 1000, 1024), (1, 16000, 1000, 512)]:
        for how, element in [("fp32", 4), ("tf32", 4), ("bf16", 2)]:
            for which, (moved, flops) in retrieval_cost(b, n, c, d, element).items():
                times = " | ".join(f"{floor_ms(moved, flops, how, device):.4f}" for device in DEVICES)
                work = f"{moved / 1e6:.1f} | {flops / 1e9:.2f}"
                out.append(f"| {b}, {n}, {c}, {d} | {which} | {how} | {work} | {times} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if toolchain.nvcc() is None:
        print("no nvcc on PATH: no static evidence")
        return
    rows = [row for arch in options.arch for row in evidence(arch)]
    text = (
        "# Static evidence of the CUDA kernels\n\nWritten by `python -m tests.cuda_on_cpu.static_evidence`. From the "
        "compiler's output; nothing was run on a GPU.\n\n## Per kernel and architecture\n\n"
        f"{markdown(rows)}\n\n## Floor times of cache_retrieval\n\nComputed from compulsory bytes and FLOPs and "
        f"published peaks, not measured.\n\n{floor_markdown()}\n"
    )
    if options.markdown:
        options.markdown.write_text(text)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    if not options.markdown and not options.json:
        print(text)


if __name__ == "__main__":
    main()
