"""Run cells and keep what was seen in ``docs/robustness.json``."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pkgutil
import platform
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import ours, peers, sections
from .case import ABSENT, CASES, COLUMNS, CRASH, OURS, PEERS, Case, Verdict, worst
from .child import AtFault, isolated
from .page import RESULTS, ROOT

# What children would import again and again; not there is not needed.
HEAVY = (
    *("vlmadapt.cli.app", "vlmadapt.experiments.front", "vlmadapt.reporting", "matplotlib.pyplot"),
    *("transformers", "open_clip", "timm", "peft", "sklearn.linear_model", "torchvision.datasets"),
    *("clip_benchmark.cli", "clip_benchmark.webdataset_builder", "webdataset"),
)
LONGEST = 300  # letters of an output that are kept
Row = dict[str, Any]


def load() -> list[Case]:
    """All cases, section by section."""
    for module in sorted(pkgutil.iter_modules(sections.__path__), key=lambda found: found.name):
        importlib.import_module(f"{sections.__name__}.{module.name}")
    return CASES


def shown(text: str, place: Path) -> str:
    """Without the folders of this machine."""
    folders = {place: "PLACE", ROOT: ".", Path(sys.prefix): "PYTHON", Path(sys.base_prefix): "PYTHON"}
    for folder, name in (folders | dict.fromkeys(peers.FOLDERS.values(), "PEER") | {Path.home(): "~"}).items():
        text = text.replace(str(folder), name)
    return re.sub(r"process \d+", "process N", re.sub(r"0x[0-9a-f]{6,}", "0x...", text))[:LONGEST]


def cell(found: Case, column: str, place: Path) -> Row:
    """Run one case in one column. Raises AtFault where the case itself fails."""
    if column not in found.runs:
        return {"outcome": ABSENT, "why": f"has no {found.needs}"}
    place.mkdir(parents=True)

    def work() -> list[Row]:
        os.chdir(place)
        noise = os.open(place / ".noise", os.O_WRONLY | os.O_CREAT)
        os.dup2(noise, 1)
        os.dup2(noise, 2)
        os.environ["VLMADAPT_CACHE"] = str(place.parent / "cache")
        verdicts = found.runs[column](place)
        return [dataclasses.asdict(verdict) for verdict in (verdicts if isinstance(verdicts, list) else [verdicts])]

    try:
        rows, why = isolated(work)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    verdicts = [Verdict(**row) for row in rows] if rows else [Verdict(CRASH, why)]
    inputs = [
        {key: shown(value, place) if isinstance(value, str) else value for key, value in kept(verdict)}
        for verdict in verdicts
    ]
    return {"outcome": worst(verdicts), "inputs": inputs}


def kept(verdict: Verdict) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in dataclasses.asdict(verdict).items() if value not in ("", None)]


def prepare() -> dict[str, str]:
    """Load what all cells need, once; what runs, and its versions."""
    torch.set_num_threads(1)
    there = {OURS: f"vlmadapt {importlib.import_module('vlmadapt').__version__}", **peers.versions(PEERS)}
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"not loaded: {name} ({error})", flush=True)
    ours.load_encoder_once()
    return there


def told(found: Case, column: str, place: Path) -> Row | None:
    """``cell``, with a line for whoever waits; None where the case is at fault."""
    begun = time.monotonic()
    try:
        row = cell(found, column, place)
    except AtFault as fault:
        print(f"AT FAULT: {found.what} | {column}\n{fault}", flush=True)
        return None
    if column in found.runs:
        seconds = time.monotonic() - begun
        print(f"{found.section} | {found.what[:60]} | {column} | {row['outcome']} ({seconds:.0f} s)", flush=True)
        for seen in row["inputs"]:
            print("      ", seen, flush=True)
    return row


def run(place: Path, columns: Sequence[str] = COLUMNS, only: Sequence[str] = (), results: Path = RESULTS) -> list[str]:
    """Run what is asked for; cells that are not keep their last results. The cases that are at fault themselves."""
    cases, there, faults = load(), prepare(), []
    old = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {"cases": [], "versions": {}}
    before = {(row["section"], row["case"]): row["cells"] for row in old["cases"]}
    rows = []
    for number, found in enumerate(cases):
        cells = {
            column: seen for column, seen in before.get((found.section, found.what), {}).items() if column in found.runs
        }
        asked = not only or any(word in f"{found.section} {found.what}" for word in only)
        for column in COLUMNS:
            if column in found.runs and not (asked and column in columns and column in there):
                continue
            row = told(found, column, place / f"{number}-{column}")
            if row is None:
                faults.append(f"{found.what} | {column}")
            else:
                cells[column] = row
        ordered = {column: cells[column] for column in COLUMNS if column in cells}
        rows.append(
            {
                "section": found.section,
                "case": found.what,
                "right": found.right,
                "tests": [f"tests/{test}" for test in found.tests],
                "cells": ordered,
            }
        )
    versions = old["versions"] | there | {"torch": torch.__version__, "Python": platform.python_version()}
    said = {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "versions": versions, "cases": rows}
    results.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return faults


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
