"""What setup.py decides before it compiles, with toolkits and compilers that are scripts."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = "8.0;9.0+PTX"
RELEASE = "echo 'Cuda compilation tools, release 13.0, V13.0.88'"
ARCHS = "echo compute_75; echo compute_80; echo compute_90; echo compute_120"
GOOD = f'case "$1" in --version) {RELEASE};; --list-gpu-arch) {ARCHS};; esac'


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_support", ROOT / "build_support.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_support"] = module
    spec.loader.exec_module(module)
    return module


support = load()


@pytest.fixture
def toolkit(tmp_path: Path) -> Callable[..., Path]:
    """Writes a toolkit whose nvcc is a shell script, into a folder with a blank and an umlaut."""

    def write(script: str = GOOD, mode: int = 0o755) -> Path:
        nvcc = tmp_path / "toolkit ü" / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        nvcc.chmod(mode)
        return nvcc.parent.parent

    return write


@pytest.mark.parametrize("given", ["", "0", "-1", "many", "2.5", " ", "²"])
def test_a_bad_number_of_jobs_becomes_a_whole_one(given: str) -> None:
    environ = {"MAX_JOBS": given}
    sentences = support.settle_jobs(environ)
    assert int(environ["MAX_JOBS"]) >= 1 and environ["MAX_JOBS"].isascii()
    assert len(sentences) == bool(given.strip())
    assert all(repr(given.strip()) in sentence and "whole number" in sentence for sentence in sentences)


def test_a_good_number_of_jobs_stays() -> None:
    environ = {"MAX_JOBS": "3"}
    assert support.settle_jobs(environ) == [] and environ == {"MAX_JOBS": "3"}


def test_flags_that_break_nan_are_left_out_and_named() -> None:
    environ = {
        "CFLAGS": "-O2 -ffast-math -fno-fast-math-not",
        "CXXFLAGS": "-Ofast\t-march=native '-DNAME=a b' -funsafe-math-optimizations",
        "LDFLAGS": "-Wl,-O1 -ffast-math",
        "CXX": "g++ -ffinite-math-only",
        "NVCC_APPEND_FLAGS": "--use_fast_math",
        "CPPFLAGS": "-DFAST=-ffast-math",
    }
    sentences = support.settle_math(environ)
    assert shlex.split(environ["CFLAGS"]) == ["-O2", "-fno-fast-math-not"]
    assert shlex.split(environ["CXXFLAGS"]) == ["-O3", "-march=native", "-DNAME=a b"]
    assert shlex.split(environ["LDFLAGS"]) == ["-Wl,-O1"] and environ["CXX"].split() == ["g++"]
    assert environ["NVCC_APPEND_FLAGS"] == "" and environ["CPPFLAGS"] == "-DFAST=-ffast-math"
    assert len(sentences) == 5 and "-Ofast, -funsafe-math-optimizations of CXXFLAGS" in "".join(sentences)


def test_flags_that_keep_nan_are_left_alone() -> None:
    environ = {"CFLAGS": "-O2  -fno-fast-math", "LDFLAGS": "-s"}
    assert support.settle_math(environ) == [] and environ["CFLAGS"] == "-O2  -fno-fast-math"


def test_our_flags_outrank_a_compiler_that_is_fast_by_itself(tmp_path: Path) -> None:
    """As icpx is, or a wrapper: our flags come after the compiler's."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    source = tmp_path / "nan.cpp"
    source.write_text(
        "#include <cstdio>\n#include <cstdlib>\n"
        'int main(int, char** v) { double x = atof(v[1]); printf("%d %.17g", x != x, (x + 1e300) - 1e300); }\n',
        encoding="ascii",
    )
    ours = json.loads((ROOT / "csrc" / "sources.json").read_text(encoding="utf-8"))["flags"]

    def run(flags: list[str], number: float) -> str:
        subprocess.run([compiler, *flags, str(source), "-o", str(tmp_path / "program")], check=True)
        return subprocess.run([tmp_path / "program", str(number)], capture_output=True, text=True).stdout

    assert run(["-O3", "-ffast-math"], math.nan).startswith("0")  # the test can fail
    assert run(["-Ofast", "-ffast-math", *ours], math.nan).startswith("1")
    assert run(["-Ofast", "-ffast-math", *ours], 1.0) == "0 0"  # sums in the order that is written


def test_a_compiler_of_several_words_becomes_one(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrap per"
    wrapper.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    environ = {"CXX": f"{shlex.quote(str(wrapper))} g++ '-DX=a b'"}
    assert support.settle_compiler(environ) == [str(wrapper), "g++", "-DX=a b"]
    (script,) = shlex.split(environ["CXX"])
    told = subprocess.run([script, "-c", "a ü.cpp"], capture_output=True, text=True, encoding="utf-8").stdout
    assert told == "g++ -DX=a b -c a ü.cpp\n"
    assert environ["TORCH_NO_COMPILER_WRAPPER"] == "1"


@pytest.mark.parametrize(
    ("environ", "command"), [({}, ["c++"]), ({"CXX": ""}, ["c++"]), ({"CXX": "clang++"}, ["clang++"])]
)
def test_a_compiler_of_one_word_stays(environ: dict[str, str], command: list[str]) -> None:
    before = dict(environ)
    assert support.settle_compiler(environ) == command and environ == before


def test_what_a_compiler_refuses_is_in_its_own_words(tmp_path: Path) -> None:
    script = tmp_path / "old"
    script.write_text(
        '#!/bin/sh\ncase "$*" in *-mavx512bw*) echo; echo "error: no -mavx512bw" >&2; exit 1;; esac\n', encoding="utf-8"
    )
    script.chmod(0o755)
    assert support.compiler_refuses([str(script)], ["-mavx2"]) == ""
    assert support.compiler_refuses([str(script)], ["-mavx2", "-mavx512bw"]) == "error: no -mavx512bw"
    assert "No such file" in support.compiler_refuses([str(tmp_path / "absent")], [])


def reason(environ: dict[str, str], torch_cuda: str | None = "13.0") -> str:
    """Why there is no CUDA library; empty if there is one."""
    try:
        found = support.find_toolkit(environ)
        support.check_torch(found, torch_cuda)
    except support.NoCuda as problem:
        return str(problem)
    return ""


def test_a_good_toolkit_is_read(toolkit: Callable[..., Path]) -> None:
    home = toolkit()
    assert support.find_toolkit({"CUDA_HOME": str(home)}) == (str(home), 13, frozenset({75, 80, 90, 120}))
    assert reason({"CUDA_HOME": "", "PATH": f"{home / 'bin'}:/usr/bin:/bin"}) == ""


def test_a_wrapper_on_the_path_tells_where_the_toolkit_is(toolkit: Callable[..., Path], tmp_path: Path) -> None:
    home = toolkit()
    folder = tmp_path / "wrappers"
    folder.mkdir()
    (folder / "nvcc").write_text(f"#!/bin/sh\necho '#$ TOP={home}' >&2\n", encoding="utf-8")
    (folder / "nvcc").chmod(0o755)
    assert support.find_toolkit({"PATH": f"{folder}:/usr/bin:/bin"}).home == str(home)


def test_a_stale_cuda_home_is_one_sentence(tmp_path: Path) -> None:
    text = reason({"CUDA_HOME": str(tmp_path)})
    assert f"CUDA_HOME is {tmp_path}, where there is no bin/nvcc" in text and "unset it" in text


def test_no_nvcc_at_all_is_one_sentence(tmp_path: Path) -> None:
    assert "nvcc is not on the PATH" in reason({"PATH": str(tmp_path)})


@pytest.mark.parametrize(
    ("script", "mode", "told"),
    [
        (GOOD, 0o644, "cannot be run"),
        ("echo 'hello\nworld'", 0o755, "names no release but says 'hello'"),
        ("printf '\\377\\376'; exit 3", 0o755, "names no release"),
        (GOOD.replace("13.0", "12.9"), 0o755, "is CUDA 12 and torch expects CUDA 13.0"),
    ],
)
def test_an_nvcc_that_is_of_no_use_is_one_sentence(
    toolkit: Callable[..., Path], script: str, mode: int, told: str
) -> None:
    home = toolkit(script, mode)
    text = reason({"CUDA_HOME": str(home)})
    assert told in text and str(home) in text and "\n" not in text and "install" in text


def test_a_cpu_build_of_torch_is_one_sentence(toolkit: Callable[..., Path]) -> None:
    assert "torch is a CPU build" in reason({"CUDA_HOME": str(toolkit())}, None)


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ("", DEFAULT),
        (" ; ", DEFAULT),
        ("9.0", "9.0"),
        ("8.0 9.0+PTX", "8.0;9.0+PTX"),
        ("Hopper", "Hopper"),
        ("9", "is '9', which torch cannot read here"),
        ("banana", "is 'banana', which torch cannot read here"),
        ("99.9", "is '99.9', which torch cannot read here"),
        ("8.0;;9.0", "which torch cannot read here"),
        ("7.5", "asks for 7.5, which nvcc or the kernels do not support (choose among 8.0, 9.0, 12.0)"),
        ("9.0;10.0", "asks for 10.0, which nvcc or the kernels do not support"),
    ],
)
def test_architectures(given: str, result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    found = support.Toolkit("/toolkit", 13, frozenset({75, 80, 90, 120}))
    try:
        archs = support.settle_archs(os.environ, DEFAULT, found, cpp_extension._get_cuda_arch_flags)
    except support.NoCuda as problem:
        assert result in str(problem) and "TORCH_CUDA_ARCH_LIST" in str(problem)
    else:
        assert archs == result == os.environ["TORCH_CUDA_ARCH_LIST"]


def test_native_architectures_without_a_gpu_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "native")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    found = support.Toolkit("/toolkit", 13, frozenset())
    with pytest.raises(support.NoCuda, match="'native', which torch cannot read here"):
        support.settle_archs(os.environ, DEFAULT, found, cpp_extension._get_cuda_arch_flags)


def setup(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """setup.py up to what pip asks first, the name of the package."""
    variables = {"CUDA_HOME": str(tmp_path / "gone"), "MAX_JOBS": "many", "CXXFLAGS": "-ffast-math"} | variables
    command = [sys.executable, str(ROOT / "setup.py"), "--name"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, cwd=ROOT)


def test_setup_says_what_it_leaves_out_and_goes_on(tmp_path: Path) -> None:
    run = setup(tmp_path, FORCE_CUDA="")
    assert run.returncode == 0 and run.stdout.splitlines()[-1] == "vlmadapt", run.stderr
    said = re.findall("^vlmadapt: (.*)$", run.stderr, re.MULTILINE)
    assert len(said) == 3 and said[2].startswith("building CPU kernels only, since CUDA_HOME is")


def test_setup_stops_with_one_sentence_where_cuda_is_forced(tmp_path: Path) -> None:
    run = setup(tmp_path, FORCE_CUDA="1")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("vlmadapt: FORCE_CUDA=1 but CUDA_HOME is")


def test_the_source_distribution_has_what_setup_imports() -> None:
    assert "include build_support.py" in (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
