"""Writes many mutants into one copy of the kernels, each behind a switch (simt/mutants.h) that is set when it runs.

One compilation then serves all of them, and a run without any tells which it met: a mutant need not be run where it
is not met. A line that does not compile so, and what no operator can stand for (&& made || binds otherwise; template
arguments and constants have to be known), is left to a compilation of its own.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Place(Protocol):
    """What of a mutant has to be known here."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def rule(self) -> str: ...


# Of a rule: what it finds, and what is written there; {} is the number of the mutant.
SWITCHES = {
    "barrier deleted": ("__syncthreads();", "(simt::chosen<{}>() ? void() : __syncthreads());"),
    "warp barrier deleted": ("__syncwarp();", "(simt::chosen<{}>() ? void() : __syncwarp());"),
    "wait deleted": ("ptx::wait_copies<0>();", "(simt::chosen<{}>() ? void() : ptx::wait_copies<0>());"),
    "predicate dropped": ("if (", "simt::chosen<{}>() || "),
    "predicate forced false": ("if (", "!simt::chosen<{}>() && "),
    "constant one made zero": ("T(1)", "T(simt::chosen<{}>() ? 0 : 1)"),
    "bound raised": (" < ", " < simt::switched<{}> < "),
    "bound lowered": (" <= ", " <= simt::switched<{}> <= "),
    "comparison swapped": (" > ", " > simt::switched<{}> > "),
    "lower bound raised": (" >= ", " >= simt::switched<{}> >= "),
    "plus made minus": (" + ", " + simt::switched<{}> + "),
    "minus made plus": (" - ", " - simt::switched<{}> - "),
    "accumulation overwritten": (" += ", " += simt::switched<{}> += "),
    "equality inverted": (" == ", " == simt::switched<{}> == "),
}
CONSTANT = re.compile(r"\bconstexpr\b|__launch_bounds__|\bgoto\b")  # known to the compiler, or nothing here


def can_be_switched(mutant: Place, before: str) -> bool:
    return mutant.rule in SWITCHES and not CONSTANT.search(before)


def with_switches(text: str, mutants: Sequence[tuple[int, Place]]) -> str:
    """A line with all of its mutants, given with their numbers."""
    at: dict[int, list[tuple[str, int]]] = collections.defaultdict(list)
    for number, mutant in mutants:
        at[mutant.column].append((mutant.rule, number))
    for column in sorted(at, reverse=True):
        rules = sorted(at[column])  # "predicate dropped" before "predicate forced false"
        found = SWITCHES[rules[0][0]][0]
        assert text.startswith(found, column), f"{text!r} has no {found!r} at {column}"
        kept = found if found == "if (" else ""
        written = "".join(SWITCHES[rule][1].format(number) for rule, number in rules)
        text = text[:column] + kept + written + text[column + len(found) :]
    return text


def write_switches(root: Path, mutants: Sequence[tuple[int, Place]]) -> None:
    """Into the files under root, which are as the mutants' lines and columns say."""
    lines: dict[tuple[str, int], list[tuple[int, Place]]] = collections.defaultdict(list)
    for number, mutant in mutants:
        lines[mutant.file, mutant.line].append((number, mutant))
    for name in {file for file, _ in lines}:
        text = (root / name).read_text().splitlines(keepends=True)
        for (file, line), found in lines.items():
            if file == name:
                text[line - 1] = with_switches(text[line - 1], found)
        # After `#pragma once`, on the same line: numbers of lines stay.
        (root / name).write_text('#include "mutants.h"\n#line 1\n' + "".join(text))


def refused_lines(errors: str, root: Path) -> set[tuple[str, int]]:
    """Where g++ complains: the line itself, or the first of these files from which an error elsewhere was reached."""
    place = re.compile(rf"{re.escape(str(root))}/(csrc/[\w/.]+\.cuh):(\d+):(?:\d+:)?")
    found: set[tuple[str, int]] = set()
    reached: tuple[str, int] | None = None
    for text in errors.splitlines():
        hit = place.match(text.strip())
        if "In instantiation of" in text or "In substitution of" in text:
            reached = None
        here = (hit[1], int(hit[2])) if hit else None
        if " error: " in text:
            if where := here or reached:
                found.add(where)
        elif here and "required" in text and reached is None:
            reached = here
    return found
