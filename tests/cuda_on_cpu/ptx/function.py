"""One kernel: registers, scopes, labels, operands. The instructions themselves are in instructions.py and warp.py."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from .lexer import BYTES, Item, Unsupported, identifier, split_operands, variable

if TYPE_CHECKING:
    from .module import Module

SPECIAL = {
    **{f"%tid.{d}": f"simt::g.current->tid.{d}" for d in "xyz"},
    **{f"%ntid.{d}": f"simt::g.block_dim.{d}" for d in "xyz"},
    **{f"%ctaid.{d}": f"simt::g.block.{d}" for d in "xyz"},
    **{f"%nctaid.{d}": f"simt::g.grid_dim.{d}" for d in "xyz"},
    "%laneid": "simt::g.current->lane",
    "%warpid": "simt::g.current->warp",
    "WARP_SZ": "32",
}


class Entry(NamedTuple):
    name: str
    offsets: list[int]
    sizes: list[int]


def register_type(type_: str) -> str:
    return "bool" if type_ == "pred" else f"u{BYTES[type_] * 8}"


def value_type(type_: str) -> str:
    """The C++ type whose arithmetic the instruction type means."""
    if type_ in ("f32", "tf32"):
        return "float"
    if type_ == "f64":
        return "double"
    return type_ if type_[0] == "s" else f"u{BYTES[type_] * 8}"


class Symbol(NamedTuple):
    name: str
    kind: str  # a PTX type, or "param" or "local"


class Function:
    def __init__(self, module: Module, head: str, body: list[Item]) -> None:
        self.module, self.head, self.body = module, head, body
        self.scopes: list[dict[str, Symbol]] = [{}]
        self.ranges: list[dict[str, tuple[str, int]]] = [{}]  # "%r" -> (type, id) of ".reg .b32 %r<9>"
        self.labels: dict[tuple[int, str], str] = {}
        self.block_stack = [0]
        self.declarations: list[str] = []
        self.code: list[str] = []
        self.line = 0
        self.entry = Entry("", [], [])

    # ---- the whole ----
    def translate(self) -> str:
        m = re.search(r"\.entry\s+([$\w]+)\s*(?:\((.*?)\))?\s*(\.|$)", self.head)
        if not m:
            raise Unsupported(f"function that was not inlined: {self.head}")
        self.entry = Entry(m[1], [], [])
        end = 0
        for parameter in split_operands(m[2] or ""):
            v = variable(parameter)
            offset = (end + v.align - 1) // v.align * v.align
            end = offset + v.bytes
            self.entry.offsets.append(offset)
            self.entry.sizes.append(v.bytes)
            self.scopes[0][v.name] = Symbol(f"(parameters + {offset})", "param")
        self.find_labels()
        blocks = 0
        for item in self.body:
            self.line = item.line
            try:
                if item.kind == "open":
                    blocks += 1
                    self.block_stack.append(blocks)
                    self.scopes.append({})
                    self.ranges.append({})
                elif item.kind == "close":
                    self.block_stack.pop()
                    self.scopes.pop()
                    self.ranges.pop()
                elif item.kind == "label":
                    self.code.append(self.labels[self.block_stack[-1], item.text] + ": ;")
                elif item.kind == "directive":
                    self.source_line(item.text)
                else:
                    self.statement(item.text)
            except Unsupported as e:
                raise Unsupported(f"{m[1]}, PTX line {item.line}: {e} in `{item.text}`") from e
        name = identifier(m[1])
        head = f"static void kernel_{name}(const char* parameters) {{\n  (void)parameters;"
        return "\n  ".join([head, *self.declarations, *self.code]) + "\n}"

    def find_labels(self) -> None:
        stack, blocks = [0], 0
        for item in self.body:
            if item.kind == "open":
                blocks += 1
                stack.append(blocks)
            elif item.kind == "close":
                stack.pop()
            elif item.kind == "label":
                self.labels[stack[-1], item.text] = f"L{stack[-1]}_{identifier(item.text)}"

    def label(self, name: str) -> str:
        for block in reversed(self.block_stack):
            if (block, name) in self.labels:
                return self.labels[block, name]
        raise Unsupported(f"label {name}")

    def source_line(self, text: str) -> None:
        """A .loc becomes #line, so that a fault names the kernel's own source."""
        words = text.replace(",", " ").split()
        if words[0] == ".loc" and words[1] in self.module.files:
            self.code.append(f'\n#line {words[2]} "{self.module.files[words[1]]}"')

    def statement(self, text: str) -> None:
        from .instructions import instruction

        if text.startswith(".reg"):
            return self.registers(text)
        if text.startswith((".pragma", ".loc")):
            return None
        if text.startswith(".shared"):
            v = variable(text)
            return self.module.add_shared(v.name, v.align, v.bytes)
        if text.startswith(".local"):
            v = variable(text)
            name = self.fresh(v.name)
            self.scopes[-1][v.name] = Symbol(name, "local")
            self.declarations.append(f"alignas({max(v.align, 16)}) char {name}[{v.bytes}];")
            return None
        guard = ""
        m = re.match(r"@(!?)([%\w]+)\s+(.*)$", text)
        if m:
            guard, text = f"if ({m[1]}{self.symbol(m[2]).name}) ", m[3]
        m = re.match(r"([\w.:]+)\s*(.*)$", text)
        if not m:
            raise Unsupported("statement")
        self.code.append(f"{guard}{{ {instruction(self, m[1], split_operands(m[2]))} }}")
        return None

    def registers(self, text: str) -> None:
        m = re.match(r"\.reg\s*\.(\w+)\s+(.*)$", text)
        if not m:
            raise Unsupported("register declaration")
        for name in split_operands(m[2]):
            many = re.match(r"([$%\w]+)<(\d+)>$", name)
            if many:
                self.module.next_id += 1
                self.ranges[-1][many[1]] = (m[1], self.module.next_id)
            else:
                self.scopes[-1][name] = self.declare(self.fresh(name), m[1])

    def fresh(self, name: str) -> str:
        self.module.next_id += 1
        return f"{identifier(name)}_{self.module.next_id}"

    def declare(self, name: str, type_: str) -> Symbol:
        self.declarations.append(f"{register_type(type_)} {name} = 0;")
        return Symbol(name, type_)

    # ---- operands ----
    def find(self, name: str) -> Symbol | None:
        numbered = re.match(r"(%?[A-Za-z_]+)(\d+)$", name)
        for scope, ranges in zip(reversed(self.scopes), reversed(self.ranges), strict=True):
            if name in scope:
                return scope[name]
            if numbered and numbered[1] in ranges:
                type_, number = ranges[numbered[1]]
                scope[name] = self.declare(f"{identifier(name)}_of_{number}", type_)
                return scope[name]
        return None

    def symbol(self, name: str) -> Symbol:
        found = self.find(name)
        if found is None:
            raise Unsupported(f"operand {name}")
        return found

    def raw(self, operand: str, type_: str = "b64") -> str:
        """C++ expression of the operand's bits."""
        if operand in SPECIAL:
            return f"(u32){SPECIAL[operand]}"
        constant = _constant(operand, type_)
        if constant is not None:
            return constant
        if operand.startswith("!"):
            return "!" + self.raw(operand[1:])
        symbol = self.find(operand)
        if symbol:
            return f"(u64){symbol.name}" if symbol.kind == "local" else symbol.name
        if operand in self.module.shared:
            return f"shared_{identifier(operand)}"
        if operand in self.module.globals:
            return f"(u64){self.module.globals[operand]}"
        raise Unsupported(f"operand {operand}")

    def read(self, operand: str, type_: str) -> str:
        """C++ expression of the operand's value as the instruction type."""
        x = self.raw(operand, type_)
        if type_ == "pred":
            return x
        if type_ in ("f32", "tf32"):
            return f"f32((u32){x})"
        if type_ in ("f64", "f16", "bf16"):
            return f"{type_}(({register_type(type_)}){x})"
        return f"({value_type(type_)}){x}"

    def write(self, destination: str, type_: str, value: str) -> str:
        """C++ statement that stores a value of the instruction type."""
        if destination == "_":
            return f"(void)({value});"
        name, kind = self.symbol(destination)
        if type_ == "pred":
            return f"{name} = {value};"
        if type_ in ("f32", "tf32", "f64", "f16", "bf16"):
            value = f"bits_{'f32' if type_ == 'tf32' else type_}({value})"
        else:
            value = f"({value_type(type_)})({value})"
        return f"{name} = ({register_type(kind)}){value};"

    def write_bits(self, destination: str, value: str) -> str:
        name, kind = self.symbol(destination)
        return f"{name} = ({register_type(kind)})({value});"

    def address(self, operand: str, space: str, size: int) -> str:
        """C++ expression of a host pointer, checked for bounds (shared) and alignment."""
        m = re.match(r"\[\s*([$%\w.]+)\s*(?:\+\s*(-?\w+))?\s*\]$", operand)
        if not m:
            raise Unsupported(f"address {operand}")
        base, offset = m[1], int(m[2], 0) if m[2] else 0
        symbol = self.find(base)
        if symbol and symbol.kind == "param":
            return f"({symbol.name} + {offset})"
        where = f"((u64){self.raw(base)} + {offset}ll)"
        check = "shared_at" if space == "shared" or base in self.module.shared else "global_at"
        return f"{check}({where}, {size}, {self.here()})"

    def here(self) -> str:
        """The site of a fault: the source line that .loc named, or the PTX line where there is none."""
        return "{__FILE__, __LINE__}"

    @staticmethod
    def vector(operand: str) -> list[str]:
        return [x.strip() for x in operand.strip()[1:-1].split(",")] if operand.startswith("{") else [operand]


def _constant(text: str, type_: str) -> str | None:
    if re.match(r"0[fF][0-9a-fA-F]{8}$", text):
        return f"bits_f64(f32(0x{text[2:]}u))" if type_ == "f64" else f"0x{text[2:]}u"
    if re.match(r"0[dD][0-9a-fA-F]{16}$", text):
        return f"bits_f32((float)f64(0x{text[2:]}ull))" if type_ == "f32" else f"0x{text[2:]}ull"
    if re.match(r"-?(0[xX][0-9a-fA-F]+|\d+)U?$", text):
        return f"{int(text.rstrip('U'), 0) & (2**64 - 1)}ull"
    return None
