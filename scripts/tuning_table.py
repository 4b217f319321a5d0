"""Fill the tables of ``docs/tuning.md``: every method, three tasks, three seeds, on easy-VQA.

    python scripts/tuning_table.py

Each method runs in a process of its own, so that its peak memory is its own. Its learning rate is chosen on the
validation records with seed 0. Interrupted, the same command goes on where it stopped; finished
fits are kept below ``runs/tuning``.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
from pathlib import Path

from vlmadapt.generative import METHODS, load_records
from vlmadapt.generative.comparison import COURSES, run_method
from vlmadapt.generative.data.load import EASY_VQA
from vlmadapt.generative.data.records import TASKS
from vlmadapt.generative.scratch import small_model
from vlmadapt.reporting.tuning_page import fill_page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tuning.md"


def run_one(method: str, seeds: int, folder: Path) -> None:
    """All tasks of one method."""
    for task in TASKS:
        loaded = small_model("caption" if task == "caption" else "vqa", progress=True)
        say = functools.partial(print, task, flush=True)
        run_method(loaded, load_records(EASY_VQA, task), COURSES[task], method, seeds, folder / task / method, say)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process runs
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one, arguments.seeds, arguments.out)
        return
    methods = arguments.methods.split(",")
    small_model("vqa", progress=True, report=print)
    for method in methods:
        options = ["--one", method, "--seeds", str(arguments.seeds), "--out", str(arguments.out)]
        subprocess.run([sys.executable, __file__, *options], check=True)
    for task in TASKS:
        fill_page(PAGE, arguments.out, load_records(EASY_VQA, task), methods)
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
