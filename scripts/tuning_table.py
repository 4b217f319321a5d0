"""Fill the tables of ``docs/tuning.md``: every method, three tasks, three seeds, on easy-VQA.

    python scripts/tuning_table.py

Each method runs in a process of its own, so that its peak memory is its own. Its learning rate is the best of ``RATES``
(``FULL_RATES``) on the validation records with seed 0. Interrupted, the same command goes on where it stopped; finished
fits are kept below ``runs/tuning``.
"""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmadapt.adapters.generative.methods import METHODS
from vlmadapt.backbones.generative.base import GenerativeModel
from vlmadapt.data.generative import EASY_VQA, load_records
from vlmadapt.data.records import TASKS, RecordSet
from vlmadapt.files import read_versioned, write_text, write_versioned
from vlmadapt.reporting.table import to_markdown
from vlmadapt.reporting.tuning import TuningPlan, predictions_of, run_tuning
from vlmadapt.reporting.tuning_picture import choose_records, describe_records, draw_said
from vlmadapt.reporting.tuning_results import TuningResults, merge_results, tuning_table
from vlmadapt.tasks.scratch import small_model
from vlmadapt.training import TrainConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tuning.md"
RATES = (1e-3, 3e-3, 1e-2)
FULL_RATES = (3e-4, 1e-3)  # of everything trained at once; ten times the time a fit
SEARCHED, FORMAT = "learning_rates.json", 1
PLANS: dict[str, dict[str, Any]] = {
    "vqa": {"epochs": 4, "limits": (800, 300, 1000)},
    "entailment": {"epochs": 4, "limits": (800, 300, 1000)},
    "caption": {"epochs": 6, "limits": (416, 150, 500)},
}


def plan_of(task: str, method: str, seeds: int, lr: float | None) -> TuningPlan:
    settings = PLANS[task]
    return TuningPlan(
        methods=(method,),
        seeds=tuple(range(seeds)),
        train=TrainConfig(epochs=settings["epochs"], batch_size=32),
        lr=lr,
        limits=settings["limits"],
    )


def run_method(method: str, seeds: int, folder: Path) -> None:
    """All tasks of one method."""
    for task in TASKS:
        loaded = small_model("caption" if task == "caption" else "vqa", progress=True)
        records = load_records(EASY_VQA, task)
        place = folder / task / method
        say = functools.partial(print, task, flush=True)
        lr = None if method == "frozen" else best_rate(loaded, records, task, method, place, say)
        run_tuning(loaded, records, plan_of(task, method, seeds, lr), place, report=say).save(place)


def best_rate(
    loaded: GenerativeModel, records: RecordSet, task: str, method: str, folder: Path, say: Callable[[str], None]
) -> float:
    """The rate of the best validation score with seed 0."""
    if not (folder / SEARCHED).exists():
        # Tuning ends with a test: of a few training pictures, set aside, so that the test records stay unread.
        aside = {record.image for record in records.train[-8:]}
        train, test = ([r for r in records.train if (r.image in aside) == chosen] for chosen in (False, True))
        unseen = replace(records, train=tuple(train), test=tuple(test))
        found = {}
        for rate in FULL_RATES if method == "full" else RATES:
            results = run_tuning(loaded, unseen, plan_of(task, method, 1, rate), folder / f"lr-{rate:g}", report=say)
            found[f"{rate:g}"] = results.cells[0].validation
        write_versioned(folder / SEARCHED, found, FORMAT)
    return float(chosen_rate(folder))


def chosen_rate(folder: Path) -> str:
    found = read_versioned(folder / SEARCHED, FORMAT, "remove it and run scripts/tuning_table.py")
    return max(found, key=lambda rate: found[rate])


def report(methods: list[str], seeds: int, folder: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for task in TASKS:
        parts = [TuningResults.load(folder / task / method) for method in methods]
        merged = merge_results(parts)
        merged.save(folder / task)
        page = replaced(page, task, to_markdown(tuning_table(merged)))
        page = replaced(page, f"{task}-rates", rates_line(folder / task, methods))
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


def rates_line(folder: Path, methods: list[str]) -> str:
    """The chosen learning rates."""
    searched = [method for method in methods if (folder / method / SEARCHED).exists()]
    return f"Learning rates: {', '.join(f'{method} {chosen_rate(folder / method)}' for method in searched)}."


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
