"""PTX instructions that concern more than one thread: barriers, shuffles, votes, atomics, asynchronous copies, mma."""

from __future__ import annotations

import re

from .function import Function, value_type
from .instructions import Instruction, handles
from .lexer import BYTES, FLOATS, Unsupported


@handles("bar", "barrier")
def barrier(f: Function, i: Instruction) -> str:
    if i.has("warp"):
        return f"__syncwarp((u32){f.raw(i.operands[0])}, __FILE__, __LINE__);"
    if i.has("red"):
        op = next(m for m in i.modifiers if m in ("popc", "and", "or"))
        kind = {"popc": "kCount", "and": "kAnd", "or": "kOr"}[op]
        vote = f"simt::sync_threads(simt::{kind}, (bool){f.raw(i.operands[-1])}, {f.here()})"
        return f.write(i.operands[0], "u32" if op == "popc" else "pred", vote)
    if i.has("sync") and i.operands == ["0"]:
        return f"simt::sync_threads(simt::kPlain, 0, {f.here()});"
    raise Unsupported("named barrier")


@handles("shfl")
def shuffle(f: Function, i: Instruction) -> str:
    to = i.operands[0].split("|")
    mode = i.modifiers[1]
    x, by, clamp, mask = (f"(u32){f.raw(o)}" for o in i.operands[1:5])
    call = f"shuffle_{mode}({x}, {by}, {clamp}, {mask}, in_, {f.here()})"
    out = [f"bool in_; u32 v_ = {call};", f.write(to[0], "b32", "v_")]
    return " ".join(out + ([f.write(to[1], "pred", "in_")] if len(to) > 1 else []))


@handles("vote")
def vote(f: Function, i: Instruction) -> str:
    kind, mask = i.modifiers[1], f"(u32){f.raw(i.operands[2])}"
    ballot = f"simt::ballot({mask}, {f.raw(i.operands[1])}, {f.here()})"
    if kind == "ballot":
        return f.write(i.operands[0], "b32", ballot)
    if kind not in ("any", "all"):
        raise Unsupported("vote")
    return f.write(i.operands[0], "pred", f"{ballot} {'!= 0' if kind == 'any' else f'== {mask}'}")


@handles("redux")
def redux(f: Function, i: Instruction) -> str:
    op = next((m for m in i.modifiers if m in ("add", "min", "max")), None)
    if op is None:
        raise Unsupported("redux")
    type_ = value_type(i.type)
    call = f"simt::reduce<{type_}>((u32){f.raw(i.operands[2])}, {f.read(i.operands[1], i.type)}, simt::{op.title()}{{}}"
    return f.write(i.operands[0], i.type, f"{call}, {f.here()})")


@handles("atom", "red")
def atomic(f: Function, i: Instruction) -> str:
    to, memory, x = i.operands if i.opcode == "atom" else ["_", *i.operands]
    op = next((m for m in i.modifiers if m in ("add", "min", "max", "exch")), None)
    if op is None or any(re.match(r"v\d$", m) for m in i.modifiers):
        raise Unsupported("atomic")
    value = f.read(x, i.type)
    type_ = value_type(i.type)
    if i.type in FLOATS and (i.type not in ("f32", "f64") or op not in ("add", "exch")):
        raise Unsupported("atomic on this floating type")
    rule = {"add": "old + v", "exch": "v", "min": "old < v ? old : v", "max": "old > v ? old : v"}[op]
    where = f.address(memory, i.space(), BYTES[i.type])
    call = f"atomic<{type_}>({where}, {value}, []({type_} old, {type_} v) -> {type_} {{ (void)old; return {rule}; }})"
    return f.write(to, i.type, call)


@handles("cp")
def asynchronous_copy(f: Function, i: Instruction) -> str:
    if i.modifiers[0] != "async" or i.has("bulk"):
        raise Unsupported("bulk copy")
    if i.has("commit_group"):
        return "simt::cp_commit();"
    if i.has("wait_group"):
        return f"simt::cp_wait({i.operands[0]});"
    if i.has("wait_all"):
        return "simt::cp_commit(); simt::cp_wait(0);"
    size = int(i.operands[2])
    given = f"(u32){f.raw(i.operands[3])}" if len(i.operands) > 3 else str(size)
    to, source = f.address(i.operands[0], "shared", size), f.address(i.operands[1], "global", size)
    return f"simt::cp_async({to}, {source}, {size}, {given});"


@handles("ldmatrix")
def ldmatrix(f: Function, i: Instruction) -> str:
    if not (i.has("m8n8") and i.has("b16") and i.space() == "shared"):
        raise Unsupported("ldmatrix kind")
    count = int(next(m for m in i.modifiers if re.match(r"x[124]$", m))[1:])
    row = f"simt::lane() < {8 * count} ? {f.address(i.operands[1], 'shared', 16)} : (char*)simt::g.dynamic_shared"
    transpose = "true" if i.has("trans") else "false"
    out = [f"u32 m_[4]; simt::ldmatrix(m_, {row}, {count}, {transpose}, {f.here()});"]
    return " ".join(out + [f.write(r, "b32", f"m_[{k}]") for k, r in enumerate(f.vector(i.operands[0]))])


_MMA = {
    ("m16n8k16", "f16"): "simt::kHalf",
    ("m16n8k16", "bf16"): "simt::kBfloat",
    ("m16n8k8", "tf32"): "simt::kTf32",
}


@handles("mma")
def mma(f: Function, i: Instruction) -> str:
    shape = next(m for m in i.modifiers if re.match(r"m\d+n\d+k\d+$", m))
    types = [m for m in i.modifiers if m in BYTES]
    kind = _MMA.get((shape, types[1]))
    if kind is None or types[0] != "f32" or types[1] != types[2] or types[3] != "f32":
        raise Unsupported("mma kind")
    d, a, b, c = (f.vector(o) for o in i.operands)
    words = {"A_": (a, "u32", "b32"), "B_": (b, "u32", "b32"), "C_": (c, "float", "f32")}
    out = [
        f"{ctype} {name}[{len(regs)}] = {{{', '.join(f.read(r, type_) for r in regs)}}};"
        for name, (regs, ctype, type_) in words.items()
    ]
    out.append(f"float D_[4]; simt::mma<{kind}>(D_, A_, B_, C_, {f.here()});")
    return " ".join(out + [f.write(r, "f32", f"D_[{k}]") for k, r in enumerate(d)])
