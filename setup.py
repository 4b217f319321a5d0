"""Builds the operator libraries.

    vlmadapt/_cpu    always
    vlmadapt/_cuda   when nvcc and a CUDA build of torch are there; no GPU is needed

Environment variables:
    FORCE_CUDA=1           stop when the CUDA library cannot be built; FORCE_CUDA=0 never builds it
    TORCH_CUDA_ARCH_LIST   GPU architectures, such as "8.0;9.0+PTX"
    MAX_JOBS               compile jobs at once; default: bounded by cores and by free memory, 2 GB a job
    DEBUG=1                no optimisation, debug symbols

Both libraries use only the LibTorch stable ABI and no Python symbol, so that one build serves many versions of both.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
SOURCES = json.loads((ROOT / "csrc" / "sources.json").read_text(encoding="utf-8"))
STABLE_ABI = "0x020a000000000000ULL"  # torch 2.10: a byte each for major and minor; build_info() reads it back
DEFAULT_CUDA_ARCHS = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def say(sentence: str) -> None:
    print(f"vlmadapt: {sentence}", file=sys.stderr)


def flag(name: str) -> bool | None:
    value = os.environ.get(name)
    return None if not value else value not in ("0", "OFF", "off", "false")


def default_jobs() -> int:
    """As many jobs as there are cores and 2 GB of free memory for each."""
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        kilobytes = int(re.search(r"MemAvailable:\s+(\d+)", meminfo)[1])
        jobs = min(jobs, kilobytes // 2_000_000)
    except (OSError, TypeError):
        pass
    return max(jobs, 1)


def cuda_home() -> str | None:
    """The toolkit's folder, asked of nvcc itself: nvcc on the PATH may be a wrapper that lives elsewhere."""
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    dry_run = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr + dry_run.stdout, re.MULTILINE)
    return os.path.realpath(top[1].strip()) if top else str(Path(nvcc).resolve().parent.parent)


os.environ.setdefault("MAX_JOBS", str(default_jobs()))
CUDA_HOME = cuda_home()
if CUDA_HOME:
    os.environ["CUDA_HOME"] = CUDA_HOME

import torch  # noqa: E402  (torch reads CUDA_HOME when it is imported)
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


def cuda_wanted() -> bool:
    """Whether to build the CUDA library; says why not in one sentence."""
    if not SOURCES["cuda"] or flag("FORCE_CUDA") is False:
        return False
    forced = flag("FORCE_CUDA")
    if CUDA_HOME is None:
        if forced:
            raise SystemExit(
                "vlmadapt: FORCE_CUDA=1 but nvcc is not on the PATH: install the CUDA toolkit or unset it."
            )
        say("building CPU kernels only, since nvcc is not on the PATH (install the CUDA toolkit for the CUDA kernels).")
        return False
    if torch.version.cuda is None:
        if forced:
            raise SystemExit(
                "vlmadapt: FORCE_CUDA=1 but torch is a CPU build: install a CUDA build of torch or unset it."
            )
        say("building CPU kernels only, since torch is a CPU build (the CUDA kernels need a CUDA build of torch).")
        return False
    release = subprocess.run([f"{CUDA_HOME}/bin/nvcc", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+)\.", release)
    if not forced and found and found[1] != torch.version.cuda.split(".")[0]:
        say(f"building CPU kernels only, since nvcc is CUDA {found[1]} and torch expects CUDA {torch.version.cuda}.")
        return False
    return True


class Build(BuildExtension):
    """Compiles the files of each instruction set with their own flags, then leaves the rest to torch."""

    def build_extensions(self) -> None:
        cpu = next(extension for extension in self.extensions if extension.name == "vlmadapt._cpu")
        cpu.extra_objects = [*cpu.extra_objects, *self.compile_isa_files()]
        super().build_extensions()

    def compile_isa_files(self) -> list[str]:
        folder = Path(self.build_temp) / "isa"
        folder.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "c++").split()

        def compile_file(level: str, source: str) -> str:
            target = folder / f"{Path(source).parent.name}_{Path(source).stem}.o"
            flags = [*compile_flags(), "-fPIC", *SOURCES[f"flags_{level}"], f"-I{ROOT / 'csrc'}"]
            subprocess.run([*compiler, *flags, "-c", str(ROOT / source), "-o", str(target)], check=True)
            return str(target)

        with ThreadPoolExecutor(int(os.environ["MAX_JOBS"])) as pool:
            jobs = [pool.submit(compile_file, *job) for job in isa_files()]
            return [job.result() for job in jobs]


def isa_files() -> list[tuple[str, str]]:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return []
    return [(level, source) for level in ("avx2", "avx512") for source in SOURCES[f"kernels_{level}"]]


def compile_flags() -> list[str]:
    return [*SOURCES["flags"], *(["-O0", "-g"] if flag("DEBUG") else ["-g0"])]


def extensions() -> list:
    common = {
        "include_dirs": [str(ROOT / "csrc")],
        "define_macros": [("TORCH_TARGET_VERSION", STABLE_ABI)],
        "py_limited_api": True,
    }
    result = [
        CppExtension(
            "vlmadapt._cpu",
            [*SOURCES["kernels"], *SOURCES["binding"]],
            extra_compile_args={"cxx": compile_flags()},
            **common,
        )
    ]
    if cuda_wanted():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHS)
        # torch switches the half types' operators off for its own sources; our kernels use them.
        half = [f"-U__CUDA_NO_{name}__" for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_CONVERSIONS")]
        nvcc_flags = ["-std=c++17", "-O3", *half, *(["-G"] if flag("DEBUG") else ["-lineinfo"])]
        archs = ("VLMADAPT_CUDA_ARCHS", os.environ["TORCH_CUDA_ARCH_LIST"].replace(" ", ";"))
        common["define_macros"] = [*common["define_macros"], ("USE_CUDA", None), archs]
        result.append(
            CUDAExtension(
                "vlmadapt._cuda",
                [*SOURCES["cuda"], *SOURCES["cuda_binding"]],
                extra_compile_args={"cxx": compile_flags(), "nvcc": nvcc_flags},
                **common,
            )
        )
    return result


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": Build.with_options(use_ninja=True)},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
