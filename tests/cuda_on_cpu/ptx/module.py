"""A whole PTX module: its variables and entry points."""

from __future__ import annotations

import re
import struct

from .function import Entry, Function
from .lexer import BYTES, Item, Unsupported, identifier, items, variable


class Module:
    def __init__(self, source: str) -> None:
        self.source = source
        self.files = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', source, flags=re.M))
        self.shared: dict[str, int | None] = {}  # offset, or None for the dynamic array
        self.shared_bytes = 0
        self.globals: dict[str, str] = {}
        self.declarations: list[str] = []
        self.functions: list[str] = []
        self.entries: list[Entry] = []
        self.next_id = 0

    def translate(self) -> str:
        stream = list(items(self.source))
        i = 0
        while i < len(stream):
            item = stream[i]
            if item.kind == "function":
                end = _closing(stream, i + 1)
                function = Function(self, item.text, stream[i + 2 : end])
                self.functions.append(function.translate())
                self.entries.append(function.entry)
                i = end
            elif item.kind == "statement" and re.search(r"\.(global|const|shared)\b", item.text):
                self.module_variable(item.text)
            i += 1
        return self.text()

    def module_variable(self, text: str) -> None:
        text = re.sub(r"^(\.(visible|extern|weak|common)\s+)+", "", text)
        v = variable(text)
        if v.space == "shared":
            if v.bytes == 0:
                self.shared[v.name] = None
            else:
                self.add_shared(v.name, v.align, v.bytes)
            return
        name = self.globals[v.name] = "g_" + identifier(v.name)
        values = _initial_bytes(v.initial, v.type) if v.initial else b""
        initial = " = {" + ",".join(map(str, values)) + "}" if values else ""
        self.declarations.append(f"alignas({max(v.align, 16)}) unsigned char {name}[{max(v.bytes, 1)}]{initial};")

    def add_shared(self, name: str, align: int, size: int) -> None:
        self.shared_bytes = (self.shared_bytes + align - 1) // align * align
        self.shared[name] = self.shared_bytes
        self.shared_bytes += size

    def text(self) -> str:
        static = (self.shared_bytes + 127) // 128 * 128  # the dynamic array follows the static ones
        out = ['#include "ptx_runtime.h"', "using namespace ptx;", f"constexpr u32 kStaticShared = {static};"]
        out += [f"constexpr u32 shared_{identifier(n)} = {static if o is None else o};" for n, o in self.shared.items()]
        out += self.declarations + self.functions
        rows = []
        for e in self.entries:
            c = identifier(e.name)
            for table, numbers in (("offsets", e.offsets), ("sizes", e.sizes)):
                out.append(f"static const int {table}_{c}[] = {{{''.join(f'{x}, ' for x in numbers)}0}};")
            rows.append(f'{{"{e.name}", kernel_{c}, kStaticShared, {len(e.offsets)}, offsets_{c}, sizes_{c}}},')
        out.append(f'extern "C" const ptx::Entry ptx_entries[] = {{{" ".join(rows)} {{}}}};')
        return "\n".join(out) + "\n"


def _closing(stream: list[Item], start: int) -> int:
    depth = 0
    for i in range(start, len(stream)):
        depth += (stream[i].kind == "open") - (stream[i].kind == "close")
        if depth == 0:
            return i
    raise Unsupported("unbalanced braces")


def _initial_bytes(text: str, type_: str) -> bytes:
    raw = b""
    for value in re.findall(r"[-\w.$]+", text.strip("{} ")):
        if value.startswith("0f"):
            raw += struct.pack("<I", int(value[2:], 16))
        elif value.startswith("0d"):
            raw += struct.pack("<Q", int(value[2:], 16))
        else:
            raw += (int(value, 0) & ((1 << 8 * BYTES[type_]) - 1)).to_bytes(BYTES[type_], "little")
    return raw


def translate(source: str) -> str:
    """PTX text of one module to C++ text; raises Unsupported."""
    return Module(source).translate()
