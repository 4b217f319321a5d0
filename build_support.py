"""What setup.py decides before it compiles: jobs, compiler, flags, CUDA toolkit. Knows no torch, builds nothing."""

from __future__ import annotations

import atexit
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import NamedTuple

Environment = MutableMapping[str, str]

OLDEST_CUDA_ARCH = 80  # the kernels copy asynchronously and multiply bfloat16 on tensor cores

# Flags after which a compiler may assume that there is no NaN, or round exp and sums as it likes. Linking with the
# first two can also make every thread of the process flush subnormal numbers to zero.
FAST_MATH = (
    "-Ofast",
    "-ffast-math",
    "-funsafe-math-optimizations",
    "-ffinite-math-only",
    "-fno-honor-nans",
    "-fno-honor-infinities",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-freciprocal-math",
    "-fapprox-func",
    "-ffp-model=fast",
    "-ffp-model=aggressive",
    "-fp-model=fast",
    "-mdaz-ftz",
    "-use_fast_math",
    "--use_fast_math",
    "-ftz=true",
    "--ftz=true",
    "-prec-div=false",
    "--prec-div=false",
    "-prec-sqrt=false",
    "--prec-sqrt=false",
)
FLAG_VARIABLES = (
    *("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS"),
    *("CC", "CXX", "LDSHARED", "LDCXXSHARED"),
    *("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"),
)


def say(sentence: str) -> None:
    print(f"vlmadapt: {sentence}", file=sys.stderr)


def default_jobs() -> int:
    """As many jobs as there are cores and 2 GB of free memory for each."""
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        if available := re.search(r"MemAvailable:\s+(\d+)", meminfo):
            jobs = min(jobs, int(available[1]) // 2_000_000)
    except OSError:
        pass
    return max(jobs, 1)


def settle_jobs(environ: Environment) -> list[str]:
    """Leaves a whole number in MAX_JOBS, which torch reads too; returns what to say."""
    given, jobs = environ.get("MAX_JOBS", "").strip(), str(default_jobs())
    if re.fullmatch("[0-9]+", given) and int(given) > 0:
        jobs, given = given, ""
    environ["MAX_JOBS"] = jobs
    return [f"MAX_JOBS is {given!r} but must be a whole number from 1: using {jobs}."] if given else []


def settle_math(environ: Environment) -> list[str]:
    """Takes :data:`FAST_MATH` out of the variables that hold flags; returns what to say."""
    sentences = []
    for name in FLAG_VARIABLES:
        found: list[str] = []

        def replacement(match: re.Match[str], found: list[str] = found) -> str:
            found.append(match[0])
            return "-O3" if match[0] == "-Ofast" else ""

        text = re.sub(rf"(?<!\S)(?:{'|'.join(map(re.escape, FAST_MATH))})(?!\S)", replacement, environ.get(name, ""))
        if found:
            environ[name] = text
            sentences.append(f"leaving {', '.join(found)} of {name} out, since it breaks exp and hides NaN.")
    return sentences


def settle_compiler(environ: Environment) -> list[str]:
    """Makes CXX a single word, since torch takes it for one; returns the compiler's command.

    A command of several words, such as ``ccache g++``, becomes a script in a temporary folder.
    """
    command = shlex.split(environ.get("CXX", "")) or ["c++"]
    if len(command) > 1:
        folder = tempfile.mkdtemp(prefix="vlmadapt-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        script = Path(folder) / "c++"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
        script.chmod(0o700)
        environ["CXX"] = str(script)
        environ["TORCH_NO_COMPILER_WRAPPER"] = "1"  # or torch puts a second ccache before it
    return command


def compiler_refuses(command: list[str], flags: list[str]) -> str:
    """Why the compiler cannot compile an empty file with the flags, in its own words; empty if it can."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.cpp"
        source.write_text("\n", encoding="ascii")
        run = _run([*command, *flags, "-c", str(source), "-o", f"{folder}/empty.o"])
    if isinstance(run, str):
        return run
    return "" if run.returncode == 0 else _first_line(run.stderr + run.stdout) or f"exit code {run.returncode}"


class NoCuda(Exception):
    """Why the CUDA library cannot be built, as the rest of a sentence after "since"."""


class Toolkit(NamedTuple):
    home: str
    major: int
    archs: frozenset[int]  # such as 90; empty where nvcc does not tell


def find_toolkit(environ: Environment) -> Toolkit:
    """The CUDA toolkit of CUDA_HOME, or else of the nvcc on the PATH; raises :class:`NoCuda`."""
    home = environ.get("CUDA_HOME", "").strip()
    said = f"CUDA_HOME is {home}"
    if not home:
        home, said = _home_of_nvcc(environ)
    nvcc = str(Path(home) / "bin" / "nvcc")
    if not Path(nvcc).is_file():
        raise NoCuda(f"{said}, where there is no bin/nvcc (correct CUDA_HOME, or unset it and put nvcc on the PATH)")
    version = _run([nvcc, "--version"])
    if isinstance(version, str):
        raise NoCuda(f"{nvcc} cannot be run: {version} (install the CUDA toolkit again)")
    release = re.search(r"release (\d+)\.", version.stdout)
    if release is None:
        line = _first_line(version.stdout + version.stderr)
        raise NoCuda(f"{nvcc} --version names no release but says {line!r} (install the CUDA toolkit again)")
    listed = _run([nvcc, "--list-gpu-arch"])
    archs = re.findall(r"compute_(\d+)", "" if isinstance(listed, str) else listed.stdout)
    return Toolkit(home, int(release[1]), frozenset(map(int, archs)))


def _home_of_nvcc(environ: Environment) -> tuple[str, str]:
    """The toolkit's folder, asked of nvcc itself: nvcc on the PATH may be a wrapper that lives elsewhere."""
    nvcc = shutil.which("nvcc", path=environ.get("PATH"))
    if nvcc is None:
        raise NoCuda("nvcc is not on the PATH (install the CUDA toolkit)")
    dry_run = _run([nvcc, "--dryrun", "x.cu"])
    if isinstance(dry_run, str):
        raise NoCuda(f"{nvcc} cannot be run: {dry_run} (install the CUDA toolkit again)")
    top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr + dry_run.stdout, re.MULTILINE)
    home = os.path.realpath(top[1].strip()) if top else str(Path(nvcc).resolve().parent.parent)
    return home, f"{nvcc} belongs to {home}"


def check_torch(toolkit: Toolkit, torch_cuda: str | None) -> None:
    """Raises :class:`NoCuda` unless torch was built for the toolkit's major version."""
    if torch_cuda is None:
        raise NoCuda("torch is a CPU build (install a CUDA build of torch)")
    if toolkit.major != int(torch_cuda.split(".")[0]):
        raise NoCuda(
            f"nvcc of {toolkit.home} is CUDA {toolkit.major} and torch expects CUDA {torch_cuda} (install a toolkit of "
            "torch's major version, or a torch built for this one)"
        )


def settle_archs(environ: Environment, default: str, toolkit: Toolkit, flags_of: Callable[[], list[str]]) -> str:
    """Leaves architectures in TORCH_CUDA_ARCH_LIST that torch, nvcc and the kernels know, and returns them.

    ``flags_of`` is torch's translation of that variable into flags of nvcc. Raises :class:`NoCuda`.
    """
    archs = environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";").strip(";") or default
    environ["TORCH_CUDA_ARCH_LIST"] = archs
    try:
        flags = flags_of()
    except (ValueError, IndexError):  # an unknown word; "native" without a GPU
        raise NoCuda(
            f"TORCH_CUDA_ARCH_LIST is {archs!r}, which torch cannot read here (write numbers as in {default!r})"
        ) from None
    asked = sorted({int(number) for flag in flags for number in re.findall(r"compute_(\d+)", flag)})
    for arch in asked:
        if arch < OLDEST_CUDA_ARCH or (toolkit.archs and arch not in toolkit.archs):
            known = ", ".join(f"{a // 10}.{a % 10}" for a in sorted(toolkit.archs) if a >= OLDEST_CUDA_ARCH)
            raise NoCuda(
                f"TORCH_CUDA_ARCH_LIST asks for {arch // 10}.{arch % 10}, which nvcc or the kernels do not support "
                f"(choose among {known or 'those from 8.0 on'})"
            )
    return archs


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | str:
    """The finished command, or why it could not be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    except OSError as error:
        return f"{command[0]}: {error.strerror or error}"
    except subprocess.TimeoutExpired:
        return "no answer within 120 s"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
