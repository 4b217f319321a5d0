"""The comparison of ``docs/tuning.md`` on the tiny world: rates chosen without test records, the page filled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.generative.tasks import world
from vlmadapt.errors import FileError
from vlmadapt.files import write_versioned
from vlmadapt.generative import comparison
from vlmadapt.generative.comparison import (
    APPNP,
    ASSEMBLED_COMPARED,
    COMPARED,
    COURSES,
    RATES,
    SEARCHED,
    Course,
    best_rate,
    chosen_rate,
    place,
    resized,
    run_method,
    sized,
)
from vlmadapt.generative.data.records import TASKS
from vlmadapt.generative.plan import TuningPlan, check_plan
from vlmadapt.generative.results import TuningResults
from vlmadapt.generative.tasks import VQATask
from vlmadapt.reporting import tuning_directions, tuning_table
from vlmadapt.reporting.tuning_directions import Question
from vlmadapt.reporting.tuning_page import fill_page, fill_sizes_and_directions, replaced

COURSE = Course(2, (8, 8, 8))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "tuning.md"


def say(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Any:
    return world.records("vqa", tmp_path_factory.mktemp("pictures"))


def test_the_rate_is_chosen_on_validation_and_no_test_record_is_asked(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "ASIDE", 2)
    asked: set[str] = set()
    original = VQATask.predict

    def watched(self: Any, records: Any, *more: Any, **options: Any) -> Any:
        asked.update(record.id for record in records)
        return original(self, records, *more, **options)

    monkeypatch.setattr(VQATask, "predict", watched)
    scores = {0.001: 0.2, 0.003: 0.9, 0.01: 0.5}
    rates = iter(RATES)

    tried = [0.0]

    def score(self: Any) -> tuple[float]:
        return (scores[tried[-1]],)

    run = comparison.run_tuning

    def at_rate(*given: Any, **options: Any) -> Any:
        tried.append(next(rates))
        return run(*given, **options)

    monkeypatch.setattr(VQATask, "score_validation", score)
    monkeypatch.setattr(comparison, "run_tuning", at_rate)
    assert best_rate(world.model(), data, COURSE, "bitfit", tmp_path, say) == 0.003
    assert chosen_rate(tmp_path) == "0.003"
    assert asked and not asked & {record.id for record in data.test}
    # Kept: nothing is searched again, there being no rate left to try.
    assert best_rate(world.model(), data, COURSE, "bitfit", tmp_path, say) == 0.003


def test_results_fill_the_page(data: Any, tmp_path: Path) -> None:
    methods = ["frozen", "bitfit", "bitfit:blind=yes"]
    write_versioned(tmp_path / "vqa" / "bitfit" / SEARCHED, {"0.003": 0.2, "0.01": 0.3}, 1)
    for method in methods:
        found = run_method(world.model(), data, COURSE, method, 2, tmp_path / "vqa", say)
        assert method == "frozen" or found.methods[method]["training"]["lr"] == 0.01  # of a control, its method's
    page = tmp_path / "page.md"
    names = ["vqa", "vqa-rates", "vqa-kinds"]
    page.write_text("".join(f"before {name}\n<!-- {name} -->\nold\n<!-- end -->\n" for name in names))
    fill_page(page, "vqa", tmp_path / "vqa", data, COURSE, methods, methods[:2])
    text = page.read_text()
    assert "old" not in text and "Learning rates: bitfit 0.01." in text and "| method | long | short |" in text
    assert all(f"before {name}\n<!-- {name} -->\n" in text for name in names)
    assert len([line for line in text.splitlines() if line.startswith(("| frozen", "| bitfit"))]) == 6
    assert (tmp_path / "tuning_vqa.png").stat().st_size > 10_000
    with pytest.raises(FileError, match=r"page\.md has no place for entailment: add <!-- entailment -->"):
        replaced(text, "entailment", "x", page)


def test_sizes_and_directions_come_from_the_runs(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COURSES, "vqa", COURSE)  # type: ignore[arg-type]
    monkeypatch.setattr(tuning_table, "RESIZED", ("bottleneck", "p-adapter"))
    monkeypatch.setattr(tuning_table, "REDUCTIONS", (8, 4))
    question = Question("better?", "bottleneck", "frozen", "+9.99")
    monkeypatch.setattr(tuning_directions, "QUESTIONS", (question,))
    for label in ("frozen", "full", "bottleneck", "p-adapter", "bottleneck:width=32", "p-adapter:reduction=4"):
        write_versioned(place(tmp_path / "vqa", label) / SEARCHED, {"0.003": 0.2}, 1)
        run_method(world.model(), data, COURSE, label, 2, tmp_path / "vqa", say)
    page = tmp_path / "page.md"
    page.write_text("<!-- sizes -->\n<!-- end -->\n<!-- directions -->\n<!-- end -->\n")
    fill_sizes_and_directions(page, tmp_path, [data])
    text = page.read_text()
    assert "% trained" in text and text.count("| bottleneck") == 1 and "+9.99" in text
    tested = data.limited(*COURSE.limits).test
    mean, interval = tuning_directions.difference(tmp_path / "vqa", tested, "vqa", question)
    results = [TuningResults.load(place(tmp_path / "vqa", label)) for label in ("bottleneck", "frozen")]
    first, second = (each.cells[0].values["accuracy"] for each in results)  # the frozen model has one seed
    assert first - second == pytest.approx(mean) and interval.low <= mean <= interval.high


def test_sizes_are_labels_that_a_plan_takes(data: Any) -> None:
    assert resized("lora", 8) == "lora" and resized("prefix", 4) == "prefix:length=64"
    assert resized(APPNP, 32) == f"{APPNP}:reduction=32" and not set(sized()) & set(COMPARED)
    assert len(check_plan(TuningPlan((*COMPARED, *sized())), data)) == len(COMPARED) + len(sized())
    assert set(ASSEMBLED_COMPARED) < set(COMPARED)
    assert Course(1, (8, 8, 8), batch=5).plan("lora", 1, None).train.batch_size == 5


@pytest.mark.parametrize("name", [*TASKS, "assembled"])
def test_the_page_in_docs_has_a_place_for_every_table(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for where in [name, f"{name}-rates", "sizes", "directions"]:
        assert "mark" in replaced(page, where, "mark", PAGE)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_course(task: str) -> None:
    assert replace(COURSES[task], epochs=1).plan("full", 3, None).seeds == (0, 1, 2)
