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
from pathlib import Path
from typing import Any

import torch

from . import ours, peers, sections
from .case import ABSENT, CASES, CRASH, OURS, PEERS, Case, Verdict, worst
from .child import isolated
from .page import RESULTS, ROOT

# What children would import again and again; not there is not needed.
HEAVY = ("vlmadapt.cli.app", "vlmadapt.experiments.front", "vlmadapt.reporting", "transformers", "open_clip", "timm", "peft",
         "sklearn.linear_model", "torchvision.datasets", "clip_benchmark.cli", "clip_benchmark.webdataset_builder", "webdataset",
         "matplotlib.pyplot")  # fmt: skip


def load() -> list[Case]:
    """All cases, section by section."""
    for module in sorted(pkgutil.iter_modules(sections.__path__), key=lambda found: found.name):
        importlib.import_module(f"{sections.__name__}.{module.name}")
    return CASES


def shown(text: str, place: Path) -> str:
    """Without the folders of this machine."""
    for folder, name in ((place, "PLACE"), (ROOT, "."), (Path(sys.prefix), "PYTHON"), (Path.home(), "~")):
        text = text.replace(str(folder), name)
    for folder in peers.FOLDERS.values():
        text = text.replace(str(folder), "PEER")
    return re.sub(r"0x[0-9a-f]{6,}", "0x...", text)[:300]


def cell(found: Case, column: str, place: Path) -> dict[str, Any]:
    """Run one case in one column."""
    if column not in found.runs:
        return {"outcome": ABSENT, "why": f"has no {found.needs}"}
    place.mkdir(parents=True)
    os.chmod(place, 0o777)

    def work() -> list[dict[str, Any]]:
        os.chdir(place)
        noise = os.open(place / ".noise", os.O_WRONLY | os.O_CREAT)
        os.dup2(noise, 1)
        os.dup2(noise, 2)
        os.environ["VLMADAPT_CACHE"] = str(place.parent / "cache")
        verdicts = found.runs[column](place)
        return [dataclasses.asdict(verdict) for verdict in (verdicts if isinstance(verdicts, list) else [verdicts])]

    rows, why = isolated(work)
    verdicts = [Verdict(**row) for row in rows] if rows else [Verdict(CRASH, why)]
    inputs = [{key: shown(value, place) if isinstance(value, str) else value
               for key, value in dataclasses.asdict(verdict).items() if value not in ("", None)} for verdict in verdicts]  # fmt: skip
    shutil.rmtree(place, ignore_errors=True)
    return {"outcome": worst(verdicts), "inputs": inputs}


def run(place: Path, columns: list[str], only: list[str]) -> None:
    """Run what is asked for; cells that are not keep their last results."""
    cases = load()
    torch.set_num_threads(1)
    there = {OURS: f"vlmadapt {importlib.import_module('vlmadapt').__version__}", **peers.versions(PEERS)}
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"not loaded: {name} ({error})", flush=True)
    ours.load_encoder_once()
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"cases": [], "versions": {}}
    before = {(row["section"], row["case"]): row["cells"] for row in old["cases"]}
    rows = []
    for number, found in enumerate(cases):
        cells = dict(before.get((found.section, found.what), {}))
        for column in (OURS, *PEERS):
            asked = column in columns and (not only or any(word in found.what + found.section for word in only))
            if (asked and column in there) or column not in found.runs:
                begun = time.monotonic()
                cells[column] = cell(found, column, place / f"{number}-{column}")
                if column in found.runs:
                    print(f"{found.section[:20]:20} | {found.what[:60]:60} | {column:14} | {cells[column]['outcome']} "
                          f"({time.monotonic() - begun:.0f} s)", flush=True)  # fmt: skip
                    for seen in cells[column]["inputs"]:
                        print("      ", {key: value for key, value in seen.items() if key != "outcome"}, seen["outcome"], flush=True)
        rows.append({"section": found.section, "case": found.what, "right": found.right, "needs": found.needs, "cells": cells})
    versions = old["versions"] | there | {"torch": torch.__version__, "Python": platform.python_version()}
    said = {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "versions": versions, "cases": rows}
    RESULTS.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
