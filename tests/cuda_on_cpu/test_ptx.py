"""A test of every one-thread PTX instruction that our kernels use, against Python's integers and NumPy's floats.

Each instruction becomes one PTX kernel that reads its operands from a table of edge values and writes its result; the
module goes through the translator of route B. What concerns several threads or memory (shuffles, barriers, copies,
ldmatrix, mma, loads) is tested through kernels, in test_bugs.py, test_layouts.py and test_demo.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .harness import toolchain
from .harness.build import (
    BUILDS,
    CACHE,
    HERE,
    Target,
    _compiler_flags,
    _key,
    _made_once,
    _run,
    _runtime_objects,
    ptx_of,
)
from .harness.numbers import encode, round_tf32
from .harness.process import Schedule, Worker
from .ptx import Unsupported, translate

WIDTH = {"pred": 1} | {f"{k}{w}": w for k in "busf" for w in (16, 32, 64)}
FLOAT: dict[str, Any] = {"f32": np.float32, "f64": np.float64}
EDGES = [0, 1, 2, 3, 7, 31, 32, 33, 63, 100, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40 + 5, 2**63 - 1,
         2**63, 2**64 - 1, 2**64 - 7, 12345678901]  # fmt: skip
REALS = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 3.14159274, -2.71828175, 1e-30, 1e30, -7.25, 100.0, math.inf, -math.inf,
         math.nan, 0.99999994, 1e-40, 65504.0]  # fmt: skip


def wrap(x: int, type_: str) -> int:
    bits = WIDTH[type_]
    x &= (1 << bits) - 1
    return x - (1 << bits) if type_[0] == "s" and x >> (bits - 1) else x


def divide(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def fused(a: float, b: float, c: float) -> Any:
    if not all(map(math.isfinite, (a, b, c))):
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    return exact if exact else a * b + c


def rounded(x: Any, type_: str, down: bool = False) -> Any:
    """A real number, possibly a Fraction, to the nearest (or next lower) value of the type."""
    kind = FLOAT[type_]
    if not isinstance(x, Fraction):
        return kind(x)
    y = kind(float(x)) if type_ == "f64" else _nearest_f32(x)
    if down and (y == math.inf or (math.isfinite(y) and Fraction(float(y)) > x)):
        y = np.nextafter(y, kind(-math.inf))
    return y


def _nearest_f32(x: Fraction) -> np.float32:
    guess = np.float32(float(x))  # rounded twice; the true nearest is this or a neighbour
    if not math.isfinite(guess):
        return guess
    near = [guess, np.nextafter(guess, np.float32(-math.inf)), np.nextafter(guess, np.float32(math.inf))]
    near = [y for y in near if math.isfinite(y)]
    return min(near, key=lambda y: (abs(Fraction(float(y)) - x), y.view(np.uint32) & 1))


def larger(a: float, b: float) -> float:
    """A NaN gives way to a number, and -0 to 0."""
    if a != a or b != b:
        return b if a != a else a
    return max(a, b, key=lambda x: (x, math.copysign(1.0, x)))


# A number's bits in 16, rounded to nearest.
PACKED: dict[str, Callable[[float], int]] = {
    "f16x2": lambda a: int(np.float32(a).astype(np.float16).view(np.uint16)),
    "bf16x2": lambda a: int(encode(np.array([a], np.float64), "bf16").view(np.uint16)[0]),
}

ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "min": min,
    "max": max,
    "not": lambda a: ~a,
    "neg": lambda a: -a,
    "mad": lambda a, b, c: a * b + c,
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b and not (a != a or b != b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "geu": lambda a, b: not a < b,
    "leu": lambda a, b: not a > b,
    "neu": lambda a, b: a != b,
    "gtu": lambda a, b: not a <= b,
    "nan": lambda a, b: a != a or b != b,
}


class Form:
    """What an instruction takes, gives, and means."""

    def __init__(self, name: str) -> None:
        self.name = name
        op, *mods = name.split(".")
        types = [m for m in mods if m in WIDTH]
        type_ = types[-1] if types else "pred"
        self.result = type_
        one = ("neg", "not", "abs", "cvt", "ex2", "lg2", "rcp", "sqrt", "popc")
        count = 1 if op in one else 3 if op in ("fma", "mad", "prmt") else 2
        self.operands = [type_] * count
        integer = type_ not in FLOAT
        if op == "setp":
            self.result, compare = "pred", COMPARE[mods[0]]
            self.meaning: Callable[..., Any] = lambda a, b: compare(a, b)
        elif op == "selp":
            self.operands = [type_, type_, "pred"]
            self.meaning = lambda a, b, p: a if p else b
        elif op in ("shl", "shr"):
            self.operands = [type_, "u32"]
            self.meaning = (lambda a, n: a << min(n, 64)) if op == "shl" else (lambda a, n: a >> n)
        elif op == "bfi":
            self.operands = [type_, type_, "u32", "u32"]
            self.meaning = insert_bits
        elif op == "popc":
            self.result = "u32"
            self.meaning = lambda a: (a & ((1 << WIDTH[type_]) - 1)).bit_count()
        elif op == "prmt":
            self.meaning = permute_bytes
        elif op == "div" and integer:
            self.meaning = lambda a, b: divide(a, b) if b else None  # PTX leaves division by zero open
        elif op == "rem":
            self.meaning = lambda a, b: a - b * divide(a, b) if b else None
        elif op == "div":
            self.meaning = lambda a, b: np.divide(FLOAT[type_](a), FLOAT[type_](b))
        elif op == "mul" and "wide" in mods:
            self.result = f"{type_[0]}{2 * WIDTH[type_]}"
            self.meaning = ARITHMETIC["mul"]
        elif op == "mul" and "hi" in mods:
            self.meaning = lambda a, b: (a * b) >> WIDTH[type_]
        elif op == "fma":
            self.meaning = fused
        elif name == "not.pred":
            self.meaning = lambda a: not a
        elif op == "abs":
            self.meaning = abs
        elif op == "ex2":
            self.meaning = lambda a: np.exp2(np.float32(0.0 if abs(a) < 2.0**-126 else a))
        elif op == "lg2":
            self.meaning = lambda a: np.log2(np.float32(0.0 if "ftz" in mods and abs(a) < 2.0**-126 else a))
        elif op == "rcp":
            self.meaning = lambda a: FLOAT[type_](1) / FLOAT[type_](a)
        elif op == "sqrt":
            self.meaning = lambda a: np.sqrt(FLOAT[type_](a))
        elif name == "cvt.rna.tf32.f32":
            self.operands, self.result = ["f32"], "f32"
            self.meaning = lambda a: round_tf32(np.float32(a))[()]
        elif op == "cvt" and mods[1] in PACKED:
            self.operands, self.result = ["f32", "f32"], "b32"
            pack = PACKED[mods[1]]
            self.meaning = lambda a, b: None if a != a or b != b else pack(a) << 16 | pack(b)  # a NaN's bits are open
        elif op == "cvt":
            self.operands, self.result = [types[-1]], types[0]
            if "rpi" in mods:
                self.meaning = lambda a: np.ceil(np.float32(a))
            elif "sat" in mods:
                self.meaning = lambda a: min(a, 1.0) if a > 0 else 0.0  # NaN and -0 become +0
            else:
                self.meaning = lambda a: a
        elif op == "max" and not integer:
            self.meaning = larger
        elif op in ARITHMETIC and (integer or op in ("add", "sub", "mul", "neg")):
            self.meaning = ARITHMETIC[op]
        else:
            raise KeyError(name)
        self.down = "rm" in mods

    def expected(self, *values: Any) -> Any:
        with np.errstate(all="ignore"):
            kind = FLOAT.get(self.operands[0])
            if kind and self.name.split(".")[0] in ("add", "sub", "mul"):
                values = tuple(kind(v) for v in values)
            result = self.meaning(*values)
            if result is None:
                return None
            if self.result == "pred":
                return bool(result) & 1
            if self.result in FLOAT:
                return rounded(result, self.result, self.down)
            return wrap(int(result), self.result)


def insert_bits(a: int, b: int, position: int, length: int) -> int:
    position, length = position & 255, length & 255
    mask = (((1 << length) - 1) << position) & 0xFFFFFFFF
    return (b & ~mask) | ((a << position) & mask)


def permute_bytes(a: int, b: int, selector: int) -> int:
    """Of the eight bytes of b and a, those that four nibbles choose, or the sign of them."""
    both, result = (b & 0xFFFFFFFF) << 32 | a & 0xFFFFFFFF, 0
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = both >> 8 * (nibble & 7) & 255
        result |= (byte if nibble < 8 else 255 * (byte >> 7)) << 8 * i
    return result


# Used by our kernels; test_every_instruction_is_here keeps this list honest.
INSTRUCTIONS = """
abs.f32 abs.f64 add.f32 add.f64 add.rn.f64 add.s32 add.s64 and.b16 and.b32 and.b64 and.pred bfi.b32 cvt.rn.bf16x2.f32
cvt.rn.f16x2.f32 cvt.rn.f32.f64 cvt.rn.f32.s32 cvt.rn.f32.s64 cvt.rn.f64.s64 cvt.rna.tf32.f32 cvt.rpi.f32.f32
cvt.s64.s32 cvt.sat.f32.f32 cvt.u16.u32 cvt.u32.u64 cvt.u64.u32 div.approx.f32 div.rn.f32 div.rn.f64 div.s64 div.u32
div.u64 ex2.approx.f32 ex2.approx.ftz.f32 fma.rm.f32 fma.rn.f32 fma.rn.f64 lg2.approx.f32 lg2.approx.ftz.f32
mad.lo.s32 max.f32 max.s32 max.s64 max.u32 min.s64 mul.f32 mul.f64 mul.hi.s64 mul.lo.s16 mul.lo.s32 mul.lo.s64
mul.wide.s32 mul.wide.u16 mul.wide.u32 neg.f32 neg.f64 neg.s32 neg.s64 not.b32 not.b64 not.pred or.b32 or.b64 or.pred
popc.b32 prmt.b32 rcp.approx.ftz.f64 rcp.rn.f32 rcp.rn.f64 rem.s64 rem.u32 selp.b32 selp.b64 selp.f32 selp.f64
selp.u16 selp.u32 selp.u64 setp.eq.b32 setp.eq.f32 setp.eq.f64 setp.eq.s16 setp.eq.s32 setp.eq.s64 setp.ge.s32
setp.ge.s64 setp.geu.f32 setp.geu.f64 setp.gt.f32 setp.gt.f64 setp.gt.s32 setp.gt.s64 setp.gt.u32 setp.gt.u64
setp.gtu.f32 setp.gtu.f64 setp.le.f32 setp.le.f64 setp.le.s32 setp.le.s64 setp.leu.f32 setp.leu.f64 setp.lt.f32
setp.lt.f64 setp.lt.s32 setp.lt.s64 setp.lt.u32 setp.lt.u64 setp.nan.f32 setp.nan.f64 setp.ne.s16 setp.ne.s32
setp.ne.s64 setp.ne.u32 setp.neu.f32 setp.neu.f64 shl.b32 shl.b64 shr.s32 shr.s64 shr.u32 shr.u64 sqrt.rn.f32
sqrt.rn.f64 sub.f32 sub.f64 sub.s16 sub.s32 sub.s64 xor.b32 xor.b64 xor.pred
""".split()  # noqa: SIM905
# Tested through whole kernels, as the head of this file says.
ELSEWHERE = re.compile(r"(ld|st|mov|bra|ret|cvta|bar|shfl|vote|cp|mma|ldmatrix|atom)\b")
COUNT = 256


def bits_of(value: Any, type_: str) -> int:
    if type_ == "f32":
        return int(np.float32(value).view(np.uint32))
    if type_ == "f64":
        return int(np.float64(value).view(np.uint64))
    return int(value) & ((1 << WIDTH[type_]) - 1)


def operands_of(form: Form, rng: np.random.Generator) -> list[tuple[Any, ...]]:
    def choices(type_: str) -> list[Any]:
        if type_ in FLOAT:
            return [FLOAT[type_](x).item() for x in REALS]
        return [wrap(x, type_) for x in EDGES]

    columns = [choices(t) for t in form.operands]
    return [tuple(c[int(rng.integers(len(c)))] for c in columns) for _ in range(COUNT)]


def kernel_text(index: int, form: Form) -> str:
    """One thread an operand set: slots of eight bytes in, one slot out."""
    lines = [f".visible .entry op{index}(.param .u64 in, .param .u64 out)", "{"]
    lines += [".reg .b64 %a<9>; .reg .b32 %i<4>; .reg .b16 %h<2>;"]
    registers = {"pred": "%P", "16": "%H", "32": "%R", "64": "%D"}
    lines += [".reg .pred %P<9>; .reg .b16 %H<9>; .reg .b32 %R<9>; .reg .b64 %D<9>;"]
    lines += [".reg .f32 %F<9>; .reg .f64 %G<9>;"]

    def register(type_: str, k: int) -> str:
        if type_ in FLOAT:
            return f"%{'F' if type_ == 'f32' else 'G'}{k}"
        return f"{registers['pred' if type_ == 'pred' else str(WIDTH[type_])]}{k}"

    lines += ["ld.param.u64 %a1, [in];", "ld.param.u64 %a2, [out];", "mov.u32 %i1, %tid.x;"]
    lines += [f"mul.wide.u32 %a3, %i1, {8 * len(form.operands)};", "add.s64 %a1, %a1, %a3;"]
    lines += ["mul.wide.u32 %a3, %i1, 8;", "add.s64 %a2, %a2, %a3;"]
    for k, type_ in enumerate(form.operands):
        if type_ == "pred":
            lines += [f"ld.global.u16 %h1, [%a1+{8 * k}];", "and.b16 %h1, %h1, 1;", f"setp.ne.s16 %P{k + 1}, %h1, 0;"]
        else:
            load = type_ if type_ in FLOAT else f"u{WIDTH[type_]}"
            lines.append(f"ld.global.{load} {register(type_, k + 1)}, [%a1+{8 * k}];")
    result = "%R0" if form.name.startswith("cvt.rna.tf32") else register(form.result, 0)
    operands = ", ".join(register(t, k + 1) for k, t in enumerate(form.operands))
    lines.append(f"{form.name} {result}, {operands};")
    if form.result == "pred":
        lines += ["selp.u32 %i2, 1, 0, %P0;", "st.global.u32 [%a2], %i2;"]
    else:
        lines.append(f"st.global.b{WIDTH[form.result]} [%a2], {result};")
    return "\n".join([*lines, "ret;", "}"])


DRIVER = """
extern "C" int run_one(const int64_t* sizes, void* const* p) {
  static const void* parameters[2];
  parameters[0] = p[0];
  parameters[1] = p[1];
  auto body = [](void* e) { static_cast<const ptx::Entry*>(e)->body(reinterpret_cast<const char*>(parameters)); };
  auto* entry = &ptx_entries[sizes[0]];
  simt::launch_raw(dim3(1), dim3(sizes[1]), 0, entry, body, (void*)entry, entry->name, entry->static_shared);
  return cudaGetLastError();
}
"""


@pytest.fixture(scope="module")
def instruction_worker() -> Any:
    if reason := toolchain.missing("simt"):
        pytest.skip(reason)
    kernels = "\n".join(kernel_text(k, Form(name)) for k, name in enumerate(INSTRUCTIONS))
    text = translate(f".version 8.0\n.target sm_80\n.address_size 64\n{kernels}\n") + DRIVER
    support = set((HERE / "simt").glob("*")) | set((HERE / "ptx").glob("*.h"))
    path = CACHE / f"instructions-{_key(support, text)}.so"
    with _made_once(path) as fresh:
        if fresh:
            source = fresh.with_suffix(".cpp")
            source.write_text(text)
            include = ["-I", str(HERE / "simt"), "-I", str(HERE / "ptx"), "-isystem", str(toolchain.cuda_include())]
            objects = [str(o) for o in _runtime_objects("plain")]
            flags = [*_compiler_flags(), *BUILDS["plain"][0], "-O0"]
            _run([str(toolchain.gxx()), *flags, *include, "-shared", str(source), *objects, "-o", str(fresh), "-ldl"])
    worker = Worker(path, asan=False)
    yield worker
    worker.stop()


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instruction(name: str, instruction_worker: Worker) -> None:
    form = Form(name)
    rows = operands_of(form, np.random.default_rng(len(name)))
    table = np.array([[bits_of(v, t) for v, t in zip(r, form.operands, strict=True)] for r in rows], np.uint64)
    sizes = [INSTRUCTIONS.index(name), COUNT]
    out = instruction_worker.call("run_one", sizes, {"in": table, "out": np.zeros(COUNT, np.uint64)}, Schedule())["out"]
    for row, got in zip(rows, out.tolist(), strict=True):
        expected = form.expected(*row)
        if expected is None:
            continue
        if form.result in FLOAT and expected != expected:  # any NaN will do
            kind = np.uint32 if form.result == "f32" else np.uint64
            assert np.isnan(kind(got).view(FLOAT[form.result])), (name, row)
        elif ".approx" in name:
            value = np.uint32(got).view(np.float32) if form.result == "f32" else np.uint64(got).view(np.float64)
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=2.0**-126, err_msg=f"{name} {row}")
        else:
            assert got == bits_of(expected, form.result), (name, row, expected)


@pytest.mark.cuda_full
@pytest.mark.cuda_quick
@pytest.mark.parametrize(
    "driver",
    [
        "attention_column_sums.cu",
        "cache_retrieval.cu",
        "cache_retrieval_chunked.cu",
        "cache_retrieval_dense.cu",
        "cache_retrieval_few.cu",
        "hetero_aggregate.cu",
        "p_laplacian.cu",
    ],
)
def test_every_instruction_is_here(driver: str, tmp_path: Path) -> None:
    if reason := toolchain.missing("ptx"):
        pytest.skip(reason)
    ptx_of(Target(HERE / "drivers" / driver, "ptx"), tmp_path / "k.ptx")
    found = re.findall(r"^\s+(?:@!?%p\d+ )?([a-z]\w*(?:\.[\w:]+)+)", (tmp_path / "k.ptx").read_text(), flags=re.M)
    missing = {name for name in found if not ELSEWHERE.match(name)} - set(INSTRUCTIONS)
    assert not missing, f"used by our kernels and not tested: {sorted(missing)}"


@pytest.mark.parametrize("text", ["wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 %r1, %r2;", "vset.u32 %r1, %r2;"])
def test_unknown_instructions_are_refused(text: str) -> None:
    with pytest.raises(Unsupported, match="PTX line 3"):
        translate(f".visible .entry k()\n{{\n{text}\nret;\n}}\n")
