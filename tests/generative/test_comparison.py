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
from vlmadapt.generative.comparison import COURSES, RATES, SEARCHED, Course, best_rate, chosen_rate, run_method
from vlmadapt.generative.data.records import TASKS
from vlmadapt.generative.tasks import VQATask
from vlmadapt.reporting.tuning_page import fill_page, replaced

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


def test_results_fill_the_page(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COURSES, "vqa", COURSE)  # type: ignore[arg-type]
    methods = ["frozen", "bitfit"]
    write_versioned(tmp_path / "vqa" / "bitfit" / SEARCHED, {"0.003": 0.2, "0.01": 0.3}, 1)
    for method in methods:
        run_method(world.model(), data, COURSE, method, 2, tmp_path / "vqa" / method, say)
    page = tmp_path / "page.md"
    names = ["vqa", "vqa-rates", "vqa-kinds"]
    page.write_text("".join(f"before {name}\n<!-- {name} -->\nold\n<!-- end -->\n" for name in names))
    fill_page(page, tmp_path, data, methods)
    text = page.read_text()
    assert "old" not in text and "Learning rates: bitfit 0.01." in text and "| method | long | short |" in text
    assert all(f"before {name}\n<!-- {name} -->\n" in text for name in names)
    assert len([line for line in text.splitlines() if line.startswith(("| frozen", "| bitfit"))]) == 4
    assert (tmp_path / "tuning_vqa.png").stat().st_size > 10_000
    with pytest.raises(FileError, match=r"page\.md has no place for entailment: add <!-- entailment -->"):
        replaced(text, "entailment", "x", page)


@pytest.mark.parametrize("task", TASKS)
def test_the_page_in_docs_has_a_place_for_every_table(task: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in [task, f"{task}-rates"]:
        assert "mark" in replaced(page, name, "mark", PAGE)
    assert task in COURSES and replace(COURSES[task], epochs=1).plan("full", 3, None).seeds == (0, 1, 2)
