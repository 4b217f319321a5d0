"""Finds the compilers and headers. Nothing is at a fixed path: nvcc may be a wrapper, headers may come with torch."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path


def _packages_root() -> list[Path]:
    """Folders that hold installed namespace packages such as ``nvidia``."""
    spec = importlib.util.find_spec("nvidia")
    return [Path(p) for p in spec.submodule_search_locations or []] if spec else []


@functools.cache
def nvcc() -> str | None:
    return shutil.which("nvcc")


@functools.cache
def nvcc_version() -> str:
    text = subprocess.run([str(nvcc()), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", text)
    return found[1] if found else "unknown"


@functools.cache
def cuda_include() -> Path | None:
    """The toolkit's headers behind nvcc, else those of the NVIDIA wheels that torch installs."""
    places: list[Path] = []
    if nvcc():
        dry = subprocess.run(
            [str(nvcc()), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull], capture_output=True, text=True
        )
        top = re.search(r"^#\$ TOP=(.+)$", dry.stderr + dry.stdout, flags=re.M)
        if top:
            places.append(Path(top[1].strip()) / "include")
    for root in _packages_root():
        places += [*sorted(root.glob("cu*/include"), reverse=True), root / "cuda_runtime/include"]
    return next((p for p in places if (p / "cuda_bf16.h").is_file() and (p / "cuda_runtime.h").is_file()), None)


@functools.cache
def gxx() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("g++")


@functools.cache
def host_flags() -> list[str]:
    """-mfma where the machine has it: the emulation calls fma a great deal, and libm's is slow."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return ["-mfma", "-ffp-contract=off"] if re.search(r"\bfma\b", flags) else []


@functools.cache
def asan_runtime() -> str | None:
    out = subprocess.run([str(gxx()), "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return out if os.path.isabs(out) else None


@functools.cache
def disassembler(tool: str) -> str | None:
    """cuobjdump or nvdisasm: on PATH, from NVIDIA's wheels, or the copies in the triton wheel."""
    if on_path := shutil.which(tool):
        return on_path
    places = [p for root in _packages_root() for p in root.glob(f"**/bin/{tool}")]
    triton = importlib.util.find_spec("triton")
    if triton and triton.origin:
        places.append(Path(triton.origin).parent / "backends/nvidia/bin" / tool)
    return next((str(p) for p in places if p.is_file() and os.access(p, os.X_OK)), None)


def missing(route: str, build: str = "plain") -> str | None:
    """Why a route cannot run here, or None."""
    if gxx() is None:
        return "no g++ on PATH: CUDA kernels are not executed"
    if cuda_include() is None:
        return "no CUDA headers (neither nvcc nor torch's nvidia wheels): CUDA kernels are not executed"
    if route == "ptx" and nvcc() is None:
        return "no nvcc on PATH: route B (PTX) is skipped"
    if build.startswith("asan") and asan_runtime() is None:
        return "no libasan beside g++: the ASan build is skipped"
    return None
