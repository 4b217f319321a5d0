"""Builds the operator libraries.

    vlmadapt/_cpu    always
    vlmadapt/_cuda   when nvcc and a CUDA build of torch are there; no GPU is needed

Environment variables:
    FORCE_CUDA=1           stop when the CUDA library cannot be built; FORCE_CUDA=0 never builds it
    TORCH_CUDA_ARCH_LIST   GPU architectures, such as "8.0;9.0+PTX"
    MAX_JOBS               compile jobs at once; default: bounded by cores and by free memory, 2 GB a job
    DEBUG=1                no optimisation, debug symbols
    CXX, CXXFLAGS, ...     as everywhere; flags that give up IEEE arithmetic, such as -ffast-math, are left out

Both libraries use only the LibTorch stable ABI and no Python symbol, so that one build serves many versions of both.
"""

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.append(str(ROOT))  # pip runs this file without its folder on the path

import build_support as support  # noqa: E402

SOURCES = json.loads((ROOT / "csrc" / "sources.json").read_text(encoding="utf-8"))
STABLE_ABI = "0x020a000000000000ULL"  # torch 2.10: a byte each for major and minor; build_info() reads it back
DEFAULT_CUDA_ARCHS = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def flag(name: str) -> bool | None:
    value = os.environ.get(name)
    return None if not value else value not in ("0", "OFF", "off", "false")


def without_cuda(problem: support.NoCuda) -> None:
    if flag("FORCE_CUDA"):
        raise SystemExit(f"vlmadapt: FORCE_CUDA=1 but {problem}; or unset FORCE_CUDA.")
    support.say(f"building CPU kernels only, since {problem}.")


def find_toolkit() -> support.Toolkit | None:
    if not SOURCES["cuda"] or flag("FORCE_CUDA") is False:
        return None
    try:
        toolkit = support.find_toolkit(os.environ)
    except support.NoCuda as problem:
        without_cuda(problem)
        return None
    os.environ["CUDA_HOME"] = toolkit.home
    return toolkit


for sentence in support.settle_jobs(os.environ) + support.settle_math(os.environ):
    support.say(sentence)
COMPILER = support.settle_compiler(os.environ)
TOOLKIT = find_toolkit()

try:
    import torch  # torch reads CUDA_HOME when it is imported
    from torch.utils import cpp_extension
except ImportError as error:
    raise SystemExit(
        f"vlmadapt: torch cannot be imported ({error}): install it, or let pip do so without --no-build-isolation."
    ) from error


def cuda_archs() -> str | None:
    """What the CUDA library is compiled for; None, and a sentence, where it is not built."""
    if TOOLKIT is None:
        return None
    try:
        support.check_torch(TOOLKIT, torch.version.cuda)
        return support.settle_archs(os.environ, DEFAULT_CUDA_ARCHS, TOOLKIT, cpp_extension._get_cuda_arch_flags)
    except support.NoCuda as problem:
        without_cuda(problem)
        return None


def compile_flags() -> list[str]:
    return [*SOURCES["flags"], *(["-O0", "-g"] if flag("DEBUG") else ["-g0"])]


def is_x86() -> bool:
    """Whether there are levels above the baseline: all are of this processor."""
    return platform.machine().lower() in ("x86_64", "amd64")


class Build(cpp_extension.BuildExtension):
    """Compiles each operator's level file once an instruction set, with its flags, then leaves the rest to torch."""

    def build_extensions(self) -> None:
        if problem := support.compiler_refuses(COMPILER, compile_flags()):
            raise SystemExit(
                f"vlmadapt: {COMPILER[0]} does not compile C++17 ({problem}): install g++, or correct CXX."
            )
        levels = self.levels()
        macros: list[tuple[str, str | None]] = [
            ("VLMADAPT_NUM_NEWER_LEVELS", str(len(levels))),
            ("VLMADAPT_ISA_LEVELS", ";".join(["baseline", *levels])),
            ("VLMADAPT_ISA_MISSING", ";".join(SOURCES["levels"][len(levels) :]) if is_x86() else ""),
        ]
        for extension in self.extensions:
            extension.define_macros = [*extension.define_macros, *macros]
        cpu = next(extension for extension in self.extensions if extension.name == "vlmadapt._cpu")
        cpu.extra_objects = [*cpu.extra_objects, *self.compile_levels(["baseline", *levels])]
        super().build_extensions()

    def levels(self) -> list[str]:
        """The levels above the baseline that the compiler can make code for."""
        if not is_x86():
            return []
        for number, level in enumerate(SOURCES["levels"]):
            if problem := support.compiler_refuses(COMPILER, [*compile_flags(), *SOURCES[f"flags_{level}"]]):
                support.say(f"building without {level} kernels, since {COMPILER[0]} says: {problem}")
                return SOURCES["levels"][:number]
        return SOURCES["levels"]

    def compile_levels(self, levels: list[str]) -> list[str]:
        folder = Path(self.build_temp) / "isa"
        folder.mkdir(parents=True, exist_ok=True)

        def compile_file(level: str, source: str) -> str:
            target = folder / f"{Path(source).parent.name}_{level}.o"
            flags = [*compile_flags(), "-fPIC", *SOURCES[f"flags_{level}"], f"-I{ROOT / 'csrc'}"]
            flags += [f"-DVLMADAPT_ISA={level}", f"-DVLMADAPT_NUM_NEWER_LEVELS={len(levels) - 1}"]
            if subprocess.run([*COMPILER, *flags, "-c", str(ROOT / source), "-o", str(target)]).returncode:
                raise SystemExit(f"vlmadapt: {source} does not compile with {COMPILER[0]}, whose words are above.")
            return str(target)

        with ThreadPoolExecutor(int(os.environ["MAX_JOBS"])) as pool:
            bf16 = SOURCES["bf16_levels"]
            files = [
                (level, source)
                for level in levels
                for source in SOURCES[f"kernels_of_each_{'bf16_' if level in bf16 else ''}level"]
            ]
            jobs = [pool.submit(compile_file, *file) for file in files]
            return [job.result() for job in jobs]


def extensions() -> list:
    common: dict[str, Any] = {
        "include_dirs": [str(ROOT / "csrc")],
        "define_macros": [("TORCH_TARGET_VERSION", STABLE_ABI)],
        "py_limited_api": True,
    }
    result = [
        cpp_extension.CppExtension(
            "vlmadapt._cpu",
            [*SOURCES["kernels"], *SOURCES["binding"]],
            extra_compile_args={"cxx": compile_flags()},
            **common,
        )
    ]
    if archs := cuda_archs():
        # torch switches the half types' operators off for its own sources; our kernels use them.
        half = [f"-U__CUDA_NO_{name}__" for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_CONVERSIONS")]
        nvcc_flags = ["-std=c++17", "-O3", *half, *(["-G"] if flag("DEBUG") else ["-lineinfo"])]
        common["define_macros"] = [*common["define_macros"], ("USE_CUDA", None), ("VLMADAPT_CUDA_ARCHS", archs)]
        result.append(
            cpp_extension.CUDAExtension(
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
