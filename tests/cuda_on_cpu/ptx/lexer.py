"""Splits PTX into statements, labels, blocks and function heads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {
    "pred": 1,
    **{f"{kind}{bits}": bits // 8 for kind in "busf" for bits in (8, 16, 32, 64)},
    "b128": 16,
    "bf16": 2,
    "f16x2": 4,
    "bf16x2": 4,
    "tf32": 4,
}
FLOATS = ("f16", "bf16", "f32", "f64")


class Unsupported(Exception):
    """A PTX construct that the translator does not know."""


class Item(NamedTuple):
    line: int
    kind: str  # "statement", "label", "open", "close", "function" or "directive"
    text: str


_LABEL = re.compile(r"\s*([$%\w]+):(?!:)")
_DIRECTIVE = re.compile(r"\s*\.(version|target|address_size|file|loc|section)\b")
_FUNCTION = re.compile(r"\s*(\.\w+\s+)*\.(entry|func)\b")


def items(source: str) -> Iterator[Item]:
    """The source in order; comments are dropped, white space inside an item is single."""
    source = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), source, flags=re.S)
    position, line, text, start = 0, 1, "", 1
    while position < len(source):
        c = source[position]
        if source.startswith("//", position):
            position = source.find("\n", position) if "\n" in source[position:] else len(source)
            continue
        if c == '"':
            end = source.index('"', position + 1)
            text += source[position : end + 1]
            position = end + 1
            continue
        if not text.strip():
            if c in "{}":
                yield Item(line, "open" if c == "{" else "close", "")
                position += 1
                continue
            label = _LABEL.match(source, position)
            if label:
                line += label[0].count("\n")
                yield Item(line, "label", label[1])
                position = label.end()
                continue
            if c.isspace():
                line += c == "\n"
                position += 1
                continue
            start = line
        line += c == "\n"
        position += 1
        if c == "\n" and _DIRECTIVE.match(text):
            yield Item(start, "directive", " ".join(text.split()))
            text = ""
        elif c == ";":
            yield Item(start, "statement", " ".join(text.split()))
            text = ""
        elif c == "{" and _FUNCTION.match(text) and "=" not in text:
            yield Item(start, "function", " ".join(text.split()))
            yield Item(line, "open", "")
            text = ""
        else:
            text += c


def split_operands(text: str) -> list[str]:
    """Splits at commas outside brackets."""
    out, depth, word = [], 0, ""
    for c in text:
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            out.append(word.strip())
            word = ""
        else:
            word += c
    return [*out, word.strip()] if word.strip() else out


class Variable(NamedTuple):
    space: str
    align: int
    type: str
    name: str
    bytes: int
    initial: str | None


_VARIABLE = re.compile(
    r"((?:\.\w+\s+)*?)\.(shared|global|const|local|param)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+"
    r"([$%\w.]+)((?:\[\d*\])*)\s*(?:=\s*(.*))?$"
)


def variable(text: str) -> Variable:
    """A declaration such as ``.shared .align 4 .b8 name[128]``; an open ``[]`` counts zero bytes."""
    text = re.sub(r"\.ptr(\s+\.(global|shared|const|local))?(\s+\.align\s+\d+)?\s+(?=[$\w])", "", text)
    m = _VARIABLE.match(text)
    if not m:
        raise Unsupported(f"declaration {text}")
    size = BYTES[m[4]]
    for extent in re.findall(r"\[(\d*)\]", m[6]):
        size *= int(extent or 0)
    return Variable(m[2], int(m[3] or BYTES[m[4]]), m[4], m[5], size, m[7])


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)
