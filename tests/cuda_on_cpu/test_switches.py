"""Mutants behind switches (simt/mutants.h) compute what they compute when they are written into the source."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from .harness import toolchain
from .harness.build import HERE
from .harness.worker import MOST_MUTANTS
from .mutate import RULES, Mutant, mutants
from .switches import SWITCHES, can_be_switched, refused_lines, write_switches

BODIES = [
    "return a < b;",
    "return a <= b;",
    "return a > b;",
    "return a >= b;",
    "return a == b;",
    "return 3 * a + b * 2 - a;",
    "return 3 * a - b * 2 + a;",
    "int x = a; x += a > 0 ? b : 1; return x;",
    "if (a < 0 || b < 0) return 1; return 0;",
    "if (a < 0 && b < 0) return 1; return 0;",
    "using T = int; return a * T(1);",
    "calls = a; __syncthreads(); return calls;",
    "calls = a; if (b > 0) __syncwarp(); return calls;",
    "calls = a; ptx::wait_copies<0>(); return calls;",
]
PAIRS = [(0, 0), (1, 2), (2, 1), (-1, 1), (3, -4), (-2, -2)]
BARRIERS = """inline int calls;
inline void __syncthreads() { ++calls; }
inline void __syncwarp() { ++calls; }
namespace ptx { template <int> void wait_copies() { ++calls; } }
"""


def compiled(source: Path) -> ctypes.CDLL:
    out = source.with_suffix(".so")
    folders = [f"-I{source.parent}", f"-I{HERE / 'simt'}"]
    command = [str(toolchain.gxx()), "-std=c++17", "-shared", "-fPIC", "-fno-gnu-unique", *folders]
    subprocess.run([*command, str(source), "-o", str(out)], check=True)
    return ctypes.CDLL(str(out))


def written_into(text: str, mutant: Mutant) -> str:
    lines = text.splitlines()
    lines[mutant.line - 1] = mutant.after
    return "\n".join(lines)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with csrc/toy/toy.cuh, a function a line."""
    file = tmp_path / "csrc" / "toy" / "toy.cuh"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(f"inline int f{i}(int a, int b) {{ {body} }}" for i, body in enumerate(BODIES)) + "\n")
    return tmp_path


def test_every_rule_that_an_operator_can_stand_for_is_switched(toy: Path) -> None:
    switched = {m.rule for m in mutants("toy", toy) if can_be_switched(m, m.before)}
    assert switched == set(SWITCHES)
    assert {name for name, _, _ in RULES} - switched == {"wait weakened", "condition dropped", "condition weakened"}


def test_switched_mutants_are_the_mutants(toy: Path) -> None:
    if reason := toolchain.missing("simt", "plain"):
        pytest.skip(reason)
    text = (toy / "csrc" / "toy" / "toy.cuh").read_text()
    numbered = list(enumerate(m for m in mutants("toy", toy) if can_be_switched(m, m.before)))
    versions = {f"m{n}": written_into(text, m) for n, m in numbered} | {"kept": text}
    each = BARRIERS
    for name, version in versions.items():
        each += f"namespace {name} {{\n{version}\n}}\n"
        each += "".join(
            f'extern "C" int {name}_{i}(int a, int b) {{ return {name}::f{i}(a, b); }}\n' for i in range(len(BODIES))
        )
    (toy / "each.cpp").write_text(each)
    write_switches(toy, numbered)
    together = BARRIERS + '#include "csrc/toy/toy.cuh"\n'
    together += "".join(f'extern "C" int g{i}(int a, int b) {{ return f{i}(a, b); }}\n' for i in range(len(BODIES)))
    (toy / "together.cpp").write_text(together)
    each_library, library = compiled(toy / "each.cpp"), compiled(toy / "together.cpp")
    choice = ctypes.c_int.in_dll(library, "simt_mutant")
    met = (ctypes.c_ubyte * MOST_MUTANTS).in_dll(library, "simt_met")
    for number, mutant in numbered:
        function = mutant.line - 1
        for a, b in PAIRS:
            kept = getattr(each_library, f"kept_{function}")(a, b)
            changed = getattr(each_library, f"m{number}_{function}")(a, b)
            choice.value = -1
            ctypes.memset(met, 0, MOST_MUTANTS)
            assert getattr(library, f"g{function}")(a, b) == kept
            assert met[number] or changed == kept, "a mutant that changes something has not been met"
            choice.value = number
            assert getattr(library, f"g{function}")(a, b) == changed, mutant


def test_lines_that_the_compiler_refuses() -> None:
    errors = """/tmp/x/csrc/op/a.cuh:7:3: error: array bound is not an integer constant
In file included from <command-line>:
/here/simt/mutants.h: In instantiation of 'auto simt::operator+(...)':
/tmp/x/csrc/op/b.cuh:12:20:   required from 'void f() [with T = float]'
/tmp/x/csrc/op/b.cuh:90:5:   required from here
/here/simt/mutants.h:64:5: error: invalid operands
"""
    assert refused_lines(errors, Path("/tmp/x")) == {("csrc/op/a.cuh", 7), ("csrc/op/b.cuh", 12)}
