"""``docs/robustness.md``, drawn from ``docs/robustness.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from .case import ABSENT, CLEAR, COLUMNS, CRASH, NOT_RUN, OURS, RIGHT, SILENT

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "robustness.json"
PAGE = ROOT / "docs" / "robustness.md"
OUTCOMES = (RIGHT, CLEAR, CRASH, SILENT)
WRONG = (CRASH, SILENT)
SHOWN = 3  # inputs of a cell that are quoted; the others are in the JSON

HOW = """## How to read it

Most of the cases were drawn from public bug reports of people who do this job with this package's peers and with
other software; the rest are their neighbours. All are restated as scripts that build their input: folders of small
pictures, split files, features, models of random weights. Every cell is from a run of that script in a process of its
own; a case of several inputs has the outcome of its worst one.

- **right**: done, and the result is what the case says.
- **clear error**: refused, and the argument, file or value at fault is named: of a command, in its last line, without
  a traceback; of a call in Python, in the message of its exception, whatever its class.
- **crash**: ended otherwise without a result: another exception, a kill, a hang, or finished work that is lost.
- **silent wrong**: ended well, and the result is not what the case says, or what had to be said was not.
- **-**: has no function that the case is about.

The cases were chosen for what goes wrong, and by us, and this package was mended with them in hand, as its peers were
not: the counts say what each program does with these cases, not how good it is at what it was made for. The peers are
used as their documentation shows: CLIP_benchmark by ImageFolder, `convert_dataset` and `clip_benchmark eval` with an
open_clip model of random weights; scikit-learn and Tip-Adapter's functions on features; peft's LoRA on a small BLIP;
ImageFolder in the usual few lines. Tip-Adapter expects a GPU: `.cuda()` is the tensor itself and `.half()` is
float32. CLIP_benchmark and Tip-Adapter ask `float()` of an array of one number, which the newest NumPy refuses: they
are given the number. `meta` stands in for another device.

`make robustness` runs every case (some 15 minutes on one core) and draws this page; `PEERS="--peer
clip-benchmark=FOLDER --peer tip-adapter=FOLDER"` names the peers that are not installed with the package: a folder
that `pip install --target` filled with clip-benchmark and what it needs, and a clone. Without it their columns keep
what an earlier run saw. Every input with what was seen of it is in [robustness.json](robustness.json).
"""


def write() -> None:
    PAGE.write_text(drawn(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def drawn(results: dict[str, Any]) -> str:
    """The page of what ``run.run`` kept."""
    return "\n".join([*head(results), "", HOW, *sections(results["cases"])]).rstrip() + "\n"


def head(results: dict[str, Any]) -> Iterator[str]:
    cases, versions = results["cases"], results["versions"]
    yield "# Robustness\n"
    yield f"{len(cases)} hard cases, each run through vlmadapt and the peers that have a function for it:\n"
    yield "| | version | cases | " + " | ".join(OUTCOMES) + f" | {ABSENT} |"
    yield "|:--|:--|--:|" + "--:|" * (len(OUTCOMES) + 1)
    for column in COLUMNS:
        counts = Counter(outcome(case, column) for case in cases)
        run = sum(counts[each] for each in OUTCOMES)
        numbers = " | ".join(str(counts[each]) for each in OUTCOMES)
        lacking = f"{counts[ABSENT]}" + (f" ({counts[NOT_RUN]} not run)" if counts[NOT_RUN] else "")
        yield f"| {column} | {versions.get(column, 'not run')} | {run} | {numbers} | {lacking} |"
    yield ""
    wrong = [case["case"] for case in cases if outcome(case, OURS) in WRONG]
    yield f"Wrong in our own column: {'; '.join(wrong) or 'none'}."
    yield f"\nRun on {results['processor']}, Python {versions['Python']}, torch {versions['torch']}, {results['date']}."


def outcome(case: dict[str, Any], column: str) -> str:
    return case["cells"].get(column, {"outcome": NOT_RUN})["outcome"]


def sections(cases: list[dict[str, Any]]) -> Iterator[str]:
    for number, (section, members) in enumerate(groupby(cases, key=lambda case: case["section"]), 1):
        named = [(f"{number}.{place}", case) for place, case in enumerate(members, 1)]
        yield f"## {number}. {section}\n"
        yield "| | " + " | ".join(COLUMNS) + " |"
        yield "|:--|" + ":--|" * len(COLUMNS)
        for name, case in named:
            yield (
                f"| {name} {capital(case['case'])} | "
                + " | ".join(emphasised(outcome(case, column)) for column in COLUMNS)
                + " |"
            )
        for name, case in named:
            yield f"\n**{name}** Right: {case['right']}."
            if lacking := {reason for column in COLUMNS if (reason := case["cells"].get(column, {}).get("why"))}:
                yield f"A dash: {', '.join(sorted(lacking))}."
            yield "Held by " + ", ".join(f"`{test}`" for test in case["tests"]) + ".\n"
            yield from (line for column in COLUMNS if (line := seen(case, column)))
        yield ""


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def emphasised(text: str) -> str:
    return f"**{text}**" if text in WRONG else text


def seen(case: dict[str, Any], column: str) -> str:
    """A line of the list below the case; empty where there was no run."""
    inputs = case["cells"].get(column, {}).get("inputs")
    if not inputs:
        return ""
    told = sorted(inputs, key=lambda each: each["outcome"] == RIGHT)[:SHOWN]
    more = f"; {len(inputs) - len(told)} more" if len(inputs) > len(told) else ""
    return f"- {column}, {outcome(case, column)}: {'; '.join(map(quoted, told))}{more}"


def quoted(one: dict[str, Any]) -> str:
    """One input: which, how it ended, and the last words where these are the evidence."""
    parts = [one.get("of", ""), one.get("why", "")]
    if one["outcome"] in (CLEAR, CRASH) and one.get("last"):
        parts.append(one["last"])
    # What would be read as markup: the sentences quote whatever a program said.
    return ": ".join(code(part) for part in parts if part)


def code(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "\\|")
    return f"`` {plain} ``" if any(sign in plain for sign in "`*_<[\\") else plain
