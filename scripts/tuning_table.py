"""Fill the tables of ``docs/tuning.md``: methods, controls and sizes, three tasks, three seeds, on easy-VQA.

    python scripts/tuning_table.py              # the small model
    python scripts/tuning_table.py --assembled  # the assembled model: fewer methods, one task

Each label runs in a process of its own, so that its peak memory is its own. A method's learning rate is chosen on the
validation records with seed 0, and serves its controls and sizes. Interrupted, the same command goes on where it
stopped; finished fits are kept below ``runs/tuning``. The hours left are said from the cells already timed.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vlmadapt.generative import METHODS, load_records
from vlmadapt.generative.comparison import (
    ASSEMBLED,
    ASSEMBLED_COMPARED,
    ASSEMBLED_COURSE,
    ASSEMBLED_TASK,
    COMPARED,
    COURSES,
    SIZED,
    run_method,
    sized,
)
from vlmadapt.generative.data.load import EASY_VQA
from vlmadapt.generative.data.records import TASKS
from vlmadapt.generative.models.load import load_generative
from vlmadapt.generative.scratch import small_model
from vlmadapt.reporting.tuning_page import fill_page, fill_sizes_and_directions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tuning.md"


def run_one(label: str, tasks: Sequence[str], seeds: int, folder: Path) -> None:
    """Those ``tasks`` of one label; of a size, that of the table of sizes only."""
    for task in tasks if label in COMPARED else {SIZED}.intersection(tasks):
        loaded = small_model("caption" if task == "caption" else "vqa", progress=True)
        say = functools.partial(print, task, flush=True)
        run_method(loaded, load_records(EASY_VQA, task), COURSES[task], label, seeds, folder / task, say)


def run_assembled(label: str, seeds: int, folder: Path) -> None:
    """One label on the assembled model."""
    loaded, records = load_generative(ASSEMBLED), load_records(EASY_VQA, ASSEMBLED_TASK)
    say = functools.partial(print, "assembled", flush=True)
    run_method(loaded, records, ASSEMBLED_COURSE, label, seeds, folder / "assembled", say)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="run these only; the page wants all of them done")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--assembled", action="store_true", help="the assembled model in place of the small one")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process runs
    arguments = parser.parse_args()
    tasks = arguments.tasks.split(",")
    if arguments.one and arguments.assembled:
        run_assembled(arguments.one, arguments.seeds, arguments.out)
        return
    if arguments.one:
        run_one(arguments.one, tasks, arguments.seeds, arguments.out)
        return
    if not arguments.assembled:
        small_model("vqa", progress=True, report=print)
    labels = ASSEMBLED_COMPARED if arguments.assembled else (*COMPARED, *sized())
    started = time.monotonic()
    for number, label in enumerate(labels, start=1):
        options = ["--one", label, "--tasks", arguments.tasks, "--seeds", str(arguments.seeds)]
        options += ["--out", str(arguments.out), *(["--assembled"] if arguments.assembled else [])]
        subprocess.run([sys.executable, __file__, *options], check=True)
        left = (time.monotonic() - started) / number * (len(labels) - number)
        print(f"[{number}/{len(labels)}] {label} done, about {left / 60:.0f} minutes left", flush=True)
    if arguments.assembled:
        records, runs = load_records(EASY_VQA, ASSEMBLED_TASK), arguments.out / "assembled"
        fill_page(PAGE, "assembled", runs, records, ASSEMBLED_COURSE, ASSEMBLED_COMPARED, ASSEMBLED_COMPARED)
        print(f"written: {PAGE}")
        return
    if set(tasks) != set(TASKS):
        return
    for task in TASKS:
        records, runs = load_records(EASY_VQA, task), arguments.out / task
        fill_page(PAGE, task, runs, records, COURSES[task], COMPARED, list(METHODS))
    fill_sizes_and_directions(PAGE, arguments.out, [load_records(EASY_VQA, task) for task in TASKS])
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
