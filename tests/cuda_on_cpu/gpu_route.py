"""The third route: the drivers on a GPU, in a library without torch that a worker loads as it loads an emulated one.

    python -m tests.cuda_on_cpu.gpu_route --arch sm_90 --out build/gpu_route.so

Same drivers, shapes, poison, guards and float64 references as the emulation (``matrix.py``). Without a GPU it can be
compiled and linked; ``--emulated`` links the same sources with the emulation instead, so that all but the device runs.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .harness import toolchain
from .harness.build import (
    HERE,
    REPOSITORY,
    Target,
    _host_command,
    _includes,
    _key,
    _run,
    _runtime_objects,
    dependencies,
)

SHIM = HERE / "gpu" / "route.cu"
OPERATORS = (
    "attention_column_sums",
    "cache_retrieval",
    "cache_retrieval_chunked",
    "cache_retrieval_dense",
    "cache_retrieval_few",
    "hetero_aggregate",
    "p_laplacian",
)
DRIVERS = tuple(HERE / "drivers" / f"{name}.cu" for name in OPERATORS)
DEFAULT = REPOSITORY / "build" / "gpu_route.so"
EMULATED = REPOSITORY / "build" / "gpu_route_emulated.so"
BUILD = "plain-fast"  # of the emulation
COMPRESSED = ("-Xfatbin", "-compress-all")


def key(drivers: Sequence[Path] = DRIVERS) -> str:
    """What the library is made of: a carried one that has another key is of another tree."""
    files: set[Path] = set()
    for source in (SHIM, *drivers):
        files |= dependencies(source, _includes(REPOSITORY))
    return _key(files, sorted(path.name for path in drivers))


def key_of(path: Path) -> str | None:
    """The key in a built library, read without loading it; None where there is none."""
    found = re.search(rb"gpu-route-key:([0-9a-f]+)", path.read_bytes()) if path.is_file() else None
    return found[1].decode() if found else None


def _nvcc(arch: str, *more: str) -> list[str]:
    number = arch.removeprefix("sm_")
    code = f"-gencode=arch=compute_{number},code=sm_{number}"
    return [
        str(toolchain.nvcc()),
        "-std=c++17",
        "-O3",
        "-w",
        "-lineinfo",
        code,
        *COMPRESSED,
        "-Xcompiler",
        "-fPIC",
        *more,
    ]


def build(out: Path, arch: str = "sm_90", emulated: bool = False, drivers: Sequence[Path] = DRIVERS) -> Path:
    """Compiles every driver at once and links; raises BuildError with the compiler's words."""
    defines = ["-DGPU_ROUTE", f'-DGPU_ROUTE_KEY="gpu-route-key:{key(drivers)}"']
    includes = [f"-I{folder}" for folder in _includes(REPOSITORY)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        sources = (SHIM, *drivers)
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]

        def compile_one(source: Path, target: Path) -> None:
            if emulated:
                command = [*_host_command(Target(source, build=BUILD)), *defines, "-include", "simt.h", "-x", "c++"]
                _run([*command, "-c", str(source), "-o", str(target)])
            else:
                _run([*_nvcc(arch, *defines, *includes), "-c", str(source), "-o", str(target)])

        with ThreadPoolExecutor(len(sources)) as pool:
            list(pool.map(compile_one, sources, objects))
        fresh = Path(folder) / out.name
        parts = [str(path) for path in (*objects, *(_runtime_objects(BUILD) if emulated else []))]
        if emulated:
            _run([str(toolchain.gxx()), "-shared", *parts, "-o", str(fresh), "-ldl"])
        else:
            _run([*_nvcc(arch, "-shared", "-cudart", "static"), *parts, "-o", str(fresh)])
        fresh.replace(out)
    return out


def symbols(path: Path) -> set[str]:
    """The functions that a library gives away."""
    printed = subprocess.run(["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in printed.stdout.splitlines()}


def devices(path: Path) -> int:
    """How many GPUs the library sees; asks in this process, so only of one that is to be used in others."""
    return int(ctypes.CDLL(str(path)).route_devices())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--out", type=Path, default=DEFAULT)
    parser.add_argument("--emulated", action="store_true", help="for the CPU, by g++")
    given = parser.parse_args()
    if not given.emulated and toolchain.nvcc() is None:
        raise SystemExit("no nvcc on PATH: the library for a GPU cannot be compiled.")
    print(build(given.out, given.arch, given.emulated), key())


if __name__ == "__main__":
    main()
