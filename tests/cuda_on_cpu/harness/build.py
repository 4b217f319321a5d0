"""Compiles a driver (kernels + extern "C" entry points) for one route and build; results are cached by content."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..ptx import translate
from . import toolchain

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent
CACHE = REPOSITORY / "build" / "cuda_on_cpu"
RUNTIME = ("scheduler.cpp", "fibers.cpp", "copies.cpp", "race.cpp", "cudart.cpp")

# What the kernel's own code is compiled with, and what the runtime is. The race build's runtime supplies the
# functions that -fsanitize=thread calls; ThreadSanitizer itself is not linked.
BUILDS: dict[str, tuple[list[str], list[str]]] = {
    "plain": (["-O2"], ["-O2"]),
    "asan": (
        ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
        ["-O1", "-fsanitize=address"],
    ),
    "race": (["-O1", "-fsanitize=thread"], ["-O2", "-DSIMT_RACE"]),
}
# The same three for mutation testing: a kernel compiles in a fifth of the time.
BUILDS |= {f"{name}-fast": ([*kernel, "-O0", "-g0"], runtime) for name, (kernel, runtime) in BUILDS.items()}


class BuildError(Exception):
    """A compiler refused; the text is its output."""


@dataclass(frozen=True)
class Target:
    driver: Path
    route: str = "simt"  # or "ptx"
    build: str = "plain"  # "asan", "race"
    arch: str = "sm_80"  # of route B
    root: Path = REPOSITORY  # where csrc/ is; mutation testing points it elsewhere
    defines: tuple[str, ...] = field(default=())

    def label(self) -> str:
        return f"{self.route}-{self.arch}-{self.build}" if self.route == "ptx" else f"simt-{self.build}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _includes(target_root: Path) -> list[Path]:
    return [target_root / "csrc", HERE, HERE / "simt", HERE / "ptx"]


def dependencies(source: Path, folders: list[Path]) -> set[Path]:
    """The file and all that it includes with quotes, found without a compiler."""
    found: set[Path] = set()
    todo = [source]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found.add(file)
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', file.read_text(), flags=re.M):
            hit = next((f / name for f in [file.parent, *folders] if (f / name).is_file()), None)
            if hit:
                todo.append(hit.resolve())
    return found


def _key(files: set[Path], *facts: object) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for text in sorted(f.read_bytes() for f in files):
        digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()[:20]


@contextlib.contextmanager
def _made_once(path: Path) -> Iterator[Path | None]:
    """Yields a temporary path to fill, or None when `path` exists already. Safe between processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        yield None
        return
    with open(path.with_suffix(path.suffix + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            yield None
            return
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            yield fresh
            os.replace(fresh, path)


@functools.cache
def _compiler_flags() -> list[str]:
    return ["-std=c++17", "-g", "-w", "-fPIC", "-fno-gnu-unique", *toolchain.host_flags()]


def _runtime_objects(build: str) -> list[Path]:
    objects = []
    folders = [HERE / "simt"]
    for name in RUNTIME:
        source = HERE / "simt" / name
        flags = BUILDS[build][1]
        path = CACHE / f"{source.stem}-{build}-{_key(dependencies(source, folders), flags, sys.platform)}.o"
        with _made_once(path) as fresh:
            if fresh:
                system = ["-isystem", str(toolchain.cuda_include())]
                _run([str(toolchain.gxx()), *_compiler_flags(), *flags, *system, "-c", str(source), "-o", str(fresh)])
        objects.append(path)
    return objects


def ptx_of(target: Target, out: Path) -> None:
    """nvcc's PTX of the driver, with source lines."""
    includes = [f"-I{folder}" for folder in _includes(target.root)]
    defines = [f"-D{d}" for d in target.defines]
    _run([
        str(toolchain.nvcc()), "-std=c++17", f"-arch={target.arch}", "-w", "-lineinfo", *defines, *includes, "-ptx",
        str(target.driver), "-o", str(out),
    ])  # fmt: skip


def library(target: Target) -> Path:
    """The shared library of a target, compiled when it is not in the cache. Raises BuildError, ptx.Unsupported."""
    flags, _ = BUILDS[target.build]
    folders = _includes(target.root)
    files = dependencies(target.driver, folders)
    support = set((HERE / "simt").glob("*")) | (set((HERE / "ptx").glob("*.*")) if target.route == "ptx" else set())
    version = toolchain.nvcc_version() if target.route == "ptx" else ""
    key = _key(files | support, flags, target.route, target.arch, target.defines, version)
    path = CACHE / f"{target.driver.stem}-{target.label()}-{key}.so"
    with _made_once(path) as fresh:
        if fresh is None:
            return path
        objects = _simt_objects(target, fresh) if target.route == "simt" else _ptx_objects(target, fresh)
        link = [f for f in flags if f.startswith("-fsanitize=address")]
        runtime = [str(o) for o in _runtime_objects(target.build)]
        _run([str(toolchain.gxx()), "-shared", *link, *map(str, objects), *runtime, "-o", str(fresh), "-ldl"])
    return path


def _host_command(target: Target) -> list[str]:
    includes = [f"-I{folder}" for folder in _includes(target.root)]
    defines = [f"-D{d}" for d in target.defines]
    system = ["-isystem", str(toolchain.cuda_include())]
    return [str(toolchain.gxx()), *_compiler_flags(), *BUILDS[target.build][0], *defines, *includes, *system]


def _precompiled(build: str) -> Path:
    """A folder with simt.h, CUDA's headers included, as g++ reads it fastest."""
    source = HERE / "simt" / "simt.h"
    flags = BUILDS[build][0]
    path = CACHE / f"simt-{build}-{_key(set((HERE / 'simt').glob('*.h')), flags, sys.platform)}" / "simt.h.gch"
    with _made_once(path) as fresh:
        if fresh:
            command = _host_command(Target(source, build=build))
            _run([*command, "-x", "c++-header", str(source), "-o", str(fresh)])
    return path.parent


def _simt_objects(target: Target, fresh: Path) -> list[Path]:
    out = fresh.with_suffix(".o")
    command = _host_command(target)
    if target.build.endswith("-fast"):
        command[1:1] = [f"-I{_precompiled(target.build)}"]
    _run([*command, "-include", "simt.h", "-x", "c++", "-c", str(target.driver), "-o", str(out)])
    return [out]


def _ptx_objects(target: Target, fresh: Path) -> list[Path]:
    ptx, kernels = fresh.with_suffix(".ptx"), fresh.with_suffix(".cpp")
    ptx_of(target, ptx)
    kernels.write_text(translate(ptx.read_text()))
    objects = []
    for source in (kernels, HERE / "ptx" / "cudart_launch.cpp"):
        objects.append(fresh.with_name(source.stem + ".ptx.o"))
        # Translated kernels are huge functions full of gotos: optimising them costs minutes and saves little.
        _run([*_host_command(target), "-O0", "-g0", "-c", str(source), "-o", str(objects[-1])])
    # The host half, <<<>>> included, is nvcc's own; only the CUDA runtime behind it is ours.
    host = fresh.with_name("host.o")
    includes = [f"-I{folder}" for folder in _includes(target.root)]
    defines = [f"-D{d}" for d in target.defines]
    _run([
        str(toolchain.nvcc()), "-std=c++17", f"-arch={target.arch}", "-w", "-O1", "-cudart", "none",
        "-Xcompiler", "-fPIC", *defines, *includes, "-c", str(target.driver), "-o", str(host),
    ])  # fmt: skip
    return [*objects, host]
