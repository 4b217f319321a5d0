"""PTX instructions of one thread: arithmetic, comparison, conversion, memory, control. One handler an opcode family.

A handler takes the function under translation and the parsed instruction, and returns C++ statements.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .function import Function, register_type, value_type
from .lexer import BYTES, FLOATS, Unsupported


@dataclass
class Instruction:
    opcode: str
    modifiers: list[str]
    operands: list[str]

    @property
    def type(self) -> str:
        """The last type named; for most instructions the only one."""
        return next((m for m in reversed(self.modifiers) if m in BYTES), "b32")

    def space(self) -> str:
        bare = [m.split("::")[0] for m in self.modifiers]
        return next((m for m in bare if m in ("param", "global", "shared", "local", "const")), "generic")

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers


Handler = Callable[[Function, Instruction], str]
HANDLERS: dict[str, Handler] = {}


def handles(*opcodes: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(opcodes, handler))
        return handler

    return register


def instruction(f: Function, name: str, operands: list[str]) -> str:
    from . import warp  # noqa: F401  registers its handlers

    opcode, *modifiers = name.split(".")
    if opcode not in HANDLERS:
        raise Unsupported(f"instruction {name}")
    return HANDLERS[opcode](f, Instruction(opcode, modifiers, operands))


# ---- moves and memory ----
@handles("mov")
def mov(f: Function, i: Instruction) -> str:
    to, source = i.operands
    width = BYTES[i.type] * 8
    if to.startswith("{"):
        parts = f.vector(to)
        each = width // len(parts)
        x = f"(u{width}){f.raw(source)}"
        return " ".join(f.write_bits(p, f"({x}) >> {k * each}") for k, p in enumerate(parts) if p != "_")
    if source.startswith("{"):
        parts = f.vector(source)
        each = width // len(parts)
        return f.write_bits(to, " | ".join(f"(u{width})(u{each}){f.raw(p)} << {k * each}" for k, p in enumerate(parts)))
    return f.write_bits(to, f.raw(source, i.type))


@handles("ld", "st")
def load_store(f: Function, i: Instruction) -> str:
    store = i.opcode == "st"
    memory, registers = i.operands if store else reversed(i.operands)
    lanes = next((int(m[1:]) for m in i.modifiers if re.match(r"v\d$", m)), 1)
    size = BYTES[i.type]
    space = i.space()
    out = [f"auto* p_ = {f.address(memory, space, size * lanes)};"]
    if space not in ("param", "local"):
        out.append(f"simt::note_{'write' if store else 'read'}(p_, {size * lanes});")
    for k, r in enumerate(f.vector(registers)):
        if store:
            out.append(f"store<u{size * 8}>(p_ + {k * size}, (u{size * 8}){f.raw(r, i.type)});")
        elif r != "_":
            type_ = value_type(i.type) if i.type[0] == "s" else f"u{size * 8}"
            out.append(f.write_bits(r, f"load<{type_}>(p_ + {k * size})"))
    return " ".join(out)


@handles("cvta")
def convert_address(f: Function, i: Instruction) -> str:
    to, source = i.operands
    x = f"(u64){f.raw(source)}"
    if i.space() == "shared":
        x = f"generic_to_shared({x})" if i.has("to") else f"shared_to_generic({x})"
    return f.write(to, i.type, x)


@handles("membar", "fence", "prefetch")
def nothing(f: Function, i: Instruction) -> str:
    return ""


# ---- arithmetic ----
_SYMBOL = {"add": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%", "and": "&", "or": "|", "xor": "^"}


@handles("add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "neg", "abs", "and", "or", "xor", "not")
def arithmetic(f: Function, i: Instruction) -> str:
    if i.type in FLOATS:
        return _float(f, i)
    if i.type in ("f16x2", "bf16x2"):
        raise Unsupported("packed arithmetic")
    return _integer(f, i)


def _finish(i: Instruction, value: str) -> str:
    if i.has("sat"):
        value = f"saturate({value})"
    return f"flush({value})" if i.has("ftz") and i.type == "f32" else value


_DIRECTED = {"rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}


def _float(f: Function, i: Instruction) -> str:
    if i.opcode in ("neg", "abs"):  # on the bits, as hardware does: a NaN keeps its payload
        sign = f"(u{BYTES[i.type] * 8})1 << {BYTES[i.type] * 8 - 1}"
        bits = f"(u{BYTES[i.type] * 8}){f.raw(i.operands[1], i.type)}"
        return f.write_bits(i.operands[0], f"{bits} ^ ({sign})" if i.opcode == "neg" else f"{bits} & ~({sign})")
    x = [f.read(o, i.type) for o in i.operands[1:]]
    if i.has("ftz") and i.type == "f32":
        x = [f"flush({o})" for o in x]
    mode = next((m for m in i.modifiers if m in _DIRECTED), None)
    if mode:
        if i.type not in ("f32", "f64") or i.opcode not in ("add", "sub", "mul", "fma"):
            raise Unsupported("rounding mode")
        operation = {"fma": "std::fma(x, y, z)"}.get(i.opcode, f"x {_SYMBOL.get(i.opcode)} y")
        type_ = value_type(i.type)
        rule = f"[](volatile {type_}& x, volatile {type_}& y, volatile {type_}& z) {{ (void)z; return {operation}; }}"
        value = f"directed<{type_}>({_DIRECTED[mode]}, {', '.join([*x, '0'][:3])}, {rule})"
    elif i.opcode in ("fma", "mad"):
        value = f"std::fma({', '.join(x)})" if i.type in ("f32", "f64") else f"(double){x[0]} * {x[1]} + {x[2]}"
    elif i.opcode in ("min", "max"):
        value = f"float_{i.opcode}{'_nan' if i.has('NaN') else ''}({', '.join(x)})"
    else:
        value = f"{x[0]} {_SYMBOL[i.opcode]} {x[1]}"
    return f.write(i.operands[0], i.type, _finish(i, f"({value})"))


def _integer(f: Function, i: Instruction) -> str:
    if any(i.has(m) for m in ("sat", "cc")):
        raise Unsupported("saturating or carrying integer arithmetic")
    to, type_ = i.operands[0], i.type
    x = [f.read(o, type_) for o in i.operands[1:]]
    if i.opcode in ("and", "or", "xor"):
        return f.write(to, type_, f"({x[0]} {_SYMBOL[i.opcode]} {x[1]})")
    if i.opcode == "not":
        return f.write(to, type_, ("!" if type_ == "pred" else "~") + x[0])
    if i.opcode in ("min", "max"):
        return f.write(to, type_, f"std::{i.opcode}<{value_type(type_)}>({x[0]}, {x[1]})")
    width = BYTES[type_] * 8
    signed = type_[0] == "s"
    u = [f"(u{width})({o})" for o in x]
    if i.opcode in ("add", "sub"):
        return f.write(to, type_, f"{u[0]} {_SYMBOL[i.opcode]} {u[1]}")
    if i.opcode == "neg":
        return f.write(to, type_, f"(u{width})0 - {u[0]}")
    if i.opcode == "abs":
        return f.write(to, type_, f"{x[0]} < 0 ? (u{width})0 - {u[0]} : {u[0]}")
    if i.opcode in ("div", "rem"):
        return f.write(to, type_, f"integer_{i.opcode}<{value_type(type_)}>({x[0]}, {x[1]})")
    double = {16: "s32", 32: "s64", 64: "__int128"}[width] if signed else {16: "u32", 32: "u64", 64: "u128"}[width]
    product = f"({double}){x[0]} * ({double}){x[1]}"
    if i.has("wide"):
        extra = f" + (u{2 * width}){f.raw(i.operands[3])}" if i.opcode == "mad" else ""
        return f.write_bits(to, f"({product}){extra}")
    value = f"(u{width})(({product}) >> {width})" if i.has("hi") else f"(u{width})((u64){u[0]} * (u64){u[1]})"
    return f.write(to, type_, value + (f" + {u[2]}" if i.opcode == "mad" else ""))


_UNARY = {"sqrt": "std::sqrt({})", "rsqrt": "1 / std::sqrt((double){})", "rcp": "1 / {}", "ex2": "std::exp2({})",
          "lg2": "std::log2({})"}  # fmt: skip


@handles(*_UNARY)
def unary(f: Function, i: Instruction) -> str:
    if i.type not in ("f32", "f64"):
        raise Unsupported("half precision function")
    x = f.read(i.operands[1], i.type)
    x = f"flush({x})" if i.has("ftz") else x
    return f.write(i.operands[0], i.type, _finish(i, f"({value_type(i.type)})({_UNARY[i.opcode].format(x)})"))


@handles("copysign")
def copysign(f: Function, i: Instruction) -> str:
    sign, magnitude = (f.read(o, i.type) for o in i.operands[1:])
    return f.write(i.operands[0], i.type, f"std::copysign({magnitude}, {sign})")


@handles("testp")
def testp(f: Function, i: Instruction) -> str:
    test = {"finite": "std::isfinite({})", "infinite": "std::isinf({})", "notanumber": "std::isnan({})"}
    if i.modifiers[0] not in test:
        raise Unsupported("testp")
    return f.write(i.operands[0], "pred", test[i.modifiers[0]].format(f.read(i.operands[1], i.type)))


# ---- bits ----
@handles("shl", "shr")
def shift(f: Function, i: Instruction) -> str:
    type_ = f"{'s' if i.type[0] == 's' else 'u'}{BYTES[i.type] * 8}"
    to, x, by = i.operands
    return f.write_bits(to, f"shift_{i.opcode}<{type_}>(({type_}){f.raw(x)}, (u32){f.raw(by)})")


@handles("lop3", "prmt", "shf", "bfe", "bfi")
def bit_function(f: Function, i: Instruction) -> str:
    to, *x = i.operands
    if i.opcode == "lop3":
        return f.write(to, "b32", f"lop3((u32){f.raw(x[0])}, (u32){f.raw(x[1])}, (u32){f.raw(x[2])}, {x[3]})")
    if i.opcode in ("bfe", "bfi"):
        values = ", ".join(f.read(o, i.type) for o in x[:-2])
        return f.write(to, i.type, f"{i.opcode}<{value_type(i.type)}>({values}, {f.raw(x[-2])}, {f.raw(x[-1])})")
    if i.opcode == "prmt" and len(i.modifiers) > 1:
        raise Unsupported("prmt mode")
    name = "prmt" if i.opcode == "prmt" else f"shf_{i.modifiers[0]}_{'wrap' if i.has('wrap') else 'clamp'}"
    return f.write(to, "b32", f"{name}({', '.join('(u32)' + f.raw(o) for o in x)})")


@handles("popc", "clz", "brev")
def bit_count(f: Function, i: Instruction) -> str:
    to, x = i.operands
    return f.write(to, i.type if i.opcode == "brev" else "u32", f"bit_{i.opcode}<u{BYTES[i.type] * 8}>({f.raw(x)})")


# ---- comparison and selection ----
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">",
            "hs": ">="}  # fmt: skip


@handles("setp")
def compare(f: Function, i: Instruction) -> str:
    how, type_ = i.modifiers[0], i.type
    x, y = (f.read(o, type_) for o in i.operands[1:3])
    ordered = f"({x} == {x} && {y} == {y})"
    if type_ in ("f16x2", "bf16x2"):
        raise Unsupported("packed comparison")
    if how in ("num", "nan"):
        value = ordered if how == "num" else f"!{ordered}"
    elif type_ in FLOATS and how == "ne":  # ordered: false when either is a NaN, unlike C++
        value = f"({x} < {y} || {x} > {y})"
    elif type_ in FLOATS and how.endswith("u"):
        value = f"(!{ordered} || {x} {_COMPARE[how[:-1]]} {y})"
    else:
        value = f"({x} {_COMPARE[how]} {y})"
    combine = next((m for m in i.modifiers[1:] if m in ("and", "or", "xor")), None)
    if combine:
        value = f"({value} {_SYMBOL[combine]} (bool){f.raw(i.operands[3])})"
    to = i.operands[0].split("|")
    out = [f"bool t_ = {value};"] + ([f.write(to[0], "pred", "t_")] if to[0] != "_" else [])
    return " ".join(out + ([f.write(to[1], "pred", "!t_")] if len(to) > 1 else []))


@handles("selp")
def select(f: Function, i: Instruction) -> str:
    to, x, y, p = i.operands
    bits = f"(u{BYTES[i.type] * 8})"
    return f.write_bits(to, f"{f.raw(p)} ? {bits}{f.raw(x, i.type)} : {bits}{f.raw(y, i.type)}")


# ---- conversion ----
_ROUND = {"rni": "std::nearbyint", "rzi": "std::trunc", "rmi": "std::floor", "rpi": "std::ceil"}


@handles("cvt")
def convert(f: Function, i: Instruction) -> str:
    types = [m for m in i.modifiers if m in BYTES]
    to, source = types[0], types[-1]
    name, x = i.operands[0], f.read(i.operands[1], source)
    if len(i.operands) == 3:  # two floats into one register, the first into the upper half
        if to not in ("f16x2", "bf16x2"):
            raise Unsupported("packing conversion")
        half, high, low = f"bits_{to[:-2]}", x, f.read(i.operands[2], "f32")
        return f.write(name, "b32", f"{half}({low}) | (u32){half}({high}) << 16")
    if to == "tf32":
        if not i.has("rna"):
            raise Unsupported("tf32 rounding")
        return f.write(name, "b32", f"simt::float_to_tf32({x})")
    rounding = next((m for m in i.modifiers if m in _ROUND), None)
    if to in FLOATS:
        if any(i.has(m) for m in ("rz", "rm", "rp")):
            raise Unsupported("rounding mode")
        if source not in FLOATS:
            return f.write(name, to, f"({'double' if to == 'f64' else 'float'}){x}")
        x = f"{_ROUND[rounding]}({x})" if rounding else x
        x = f"flush({x})" if i.has("ftz") and source == "f32" else x
        return f.write(name, to, f"({'double' if to == 'f64' else 'float'})({f'saturate({x})' if i.has('sat') else x})")
    if source in FLOATS:
        return f.write(name, to, f"float_to_integer<{value_type(to)}>({_ROUND[rounding or 'rzi']}({x}))")
    if i.has("sat"):
        raise Unsupported("saturating integer conversion")
    return f.write(name, to, x)


# ---- control ----
@handles("bra")
def branch(f: Function, i: Instruction) -> str:
    return f"goto {f.label(i.operands[0])};"


@handles("ret", "exit")
def leave(f: Function, i: Instruction) -> str:
    return "return;"


@handles("trap")
def trap(f: Function, i: Instruction) -> str:
    return f'simt::trap("trap", {f.here()});'


__all__ = ["HANDLERS", "Instruction", "handles", "instruction", "register_type"]
