"""Fill the tables of ``docs/tuning.md``: every method, three tasks, three seeds, on easy-VQA.

    python scripts/tuning_table.py

Each method runs in a process of its own, so that its peak memory is its own. Interrupted, the same command goes on
where it stopped; finished fits are kept below ``runs/tuning``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from vlmadapt.adapters.generative.methods import METHODS
from vlmadapt.data.generative import EASY_VQA, load_records
from vlmadapt.data.records import TASKS
from vlmadapt.files import write_text
from vlmadapt.reporting.table import to_markdown
from vlmadapt.reporting.tuning import TuningPlan, predictions_of, run_tuning
from vlmadapt.reporting.tuning_picture import choose_records, describe_records, draw_said
from vlmadapt.reporting.tuning_results import TuningResults, merge_results, tuning_table
from vlmadapt.tasks.scratch import small_model
from vlmadapt.training import TrainConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tuning.md"
PLANS = {
    "vqa": {"epochs": 4, "limits": (800, 300, 1000)},
    "entailment": {"epochs": 4, "limits": (800, 300, 1000)},
    "caption": {"epochs": 6, "limits": (416, 150, 500)},
}


def plan_of(task: str, method: str, seeds: int) -> TuningPlan:
    settings = PLANS[task]
    return TuningPlan(
        methods=(method,),
        seeds=tuple(range(seeds)),
        train=TrainConfig(epochs=settings["epochs"], batch_size=32),
        limits=settings["limits"],
    )


def run_method(method: str, seeds: int, folder: Path) -> None:
    """All tasks of one method."""
    for task in TASKS:
        loaded = small_model("caption" if task == "caption" else "vqa", progress=True)
        records = load_records(EASY_VQA, task)
        plan = plan_of(task, method, seeds)
        results = run_tuning(
            loaded,
            records,
            plan,
            folder / task / method,
            report=lambda line, task=task: print(f"{task} {line}", flush=True),
        )
        results.save(folder / task / method)


def report(methods: list[str], seeds: int, folder: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for task in TASKS:
        parts = [TuningResults.load(folder / task / method) for method in methods]
        merged = merge_results(parts)
        merged.save(folder / task)
        page = replaced(page, task, to_markdown(tuning_table(merged)))
        if merged.cells[0].by_kind:
            page = replaced(page, f"{task}-kinds", kinds_table(merged))
        predictions = {method: predictions_of(folder / task / method, method, 0) for method in methods}
        limited = load_records(EASY_VQA, task).limited(*PLANS[task]["limits"])
        told = describe_records(choose_records(limited.test, predictions, 8), predictions)
        title = f"{EASY_VQA}, {task}: what each method says (seed 0)"
        draw_said(
            told, title, "Test records, those on which the methods disagree first", PAGE.with_name(f"tuning_{task}.png")
        )
    write_text(PAGE, page)
    print(f"written: {PAGE}")


def kinds_table(results: TuningResults) -> str:
    """The main measure by type of question, mean over the seeds."""
    kinds = list(results.cells[0].by_kind)
    lines = [f"| method | {' | '.join(kinds)} |", f"|:---|{'---:|' * len(kinds)}"]
    for method in results.methods:
        cells = results.of(method)
        means = [100 * sum(cell.by_kind[kind] for cell in cells) / len(cells) for kind in kinds]
        lines.append(f"| {method} | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    return "\n".join(lines)


def replaced(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the comments ``<!-- name -->`` and ``<!-- end -->``."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, page, re.DOTALL):
        raise SystemExit(f"{PAGE} has no place for {name}: add <!-- {name} --> and <!-- end -->.")
    return re.sub(pattern, lambda match: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process runs
    arguments = parser.parse_args()
    if arguments.one:
        run_method(arguments.one, arguments.seeds, arguments.out)
        return
    methods = arguments.methods.split(",")
    small_model("vqa", progress=True, report=print)
    for method in methods:
        command = [
            sys.executable,
            __file__,
            "--one",
            method,
            "--seeds",
            str(arguments.seeds),
            "--out",
            str(arguments.out),
        ]
        subprocess.run(command, check=True)
    report(methods, arguments.seeds, arguments.out)


if __name__ == "__main__":
    main()
