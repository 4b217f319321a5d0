"""The page of hard cases: drawn from what was run, each case held by tests that exist, its script at work."""

from __future__ import annotations

import ast
import json
import re
import time
from pathlib import Path

import pytest
from robustness import page, run
from robustness.case import CLEAR, CRASH, OURS, RIGHT, SILENT, Case
from robustness.child import AtFault, NotDone, Said, isolated, patience
from robustness.judge import of_call, of_command

ROOT = page.ROOT
RESULTS = json.loads(page.RESULTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return run.load()


def test_the_page_is_what_the_results_draw() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.drawn(RESULTS), "run make robustness"


def test_the_results_are_of_the_cases(cases: list[Case]) -> None:
    kept = [(row["section"], row["case"], row["right"], row["tests"]) for row in RESULTS["cases"]]
    assert kept == [(each.section, each.what, each.right, [f"tests/{test}" for test in each.tests]) for each in cases]
    for row, each in zip(RESULTS["cases"], cases, strict=True):
        assert OURS in each.runs and all("inputs" in row["cells"].get(column, {"inputs": []}) for column in each.runs)


def test_results_name_no_folder_of_a_machine() -> None:
    assert not re.search(r"/(?:tmp|home|root|work|Users)/", page.RESULTS.read_text(encoding="utf-8"))


def names_in(file: Path) -> set[str]:
    """As pytest names them, without their parameters."""
    top = ast.parse(file.read_text(encoding="utf-8")).body
    inner = ((node.name, each) for node in top if isinstance(node, ast.ClassDef) for each in node.body)
    functions = [("", node) for node in top] + [(f"{name}::", each) for name, each in inner]
    return {before + node.name for before, node in functions if isinstance(node, ast.FunctionDef)}


def test_every_case_is_held_by_tests_that_exist(cases: list[Case]) -> None:
    known: dict[str, set[str]] = {}
    for each in cases:
        assert each.tests, each.what
        for test in each.tests:
            file, _, name = test.partition("::")
            if file not in known:
                known[file] = names_in(ROOT / "tests" / file)
            assert name in known[file] and name.rpartition("::")[2].startswith("test_"), f"{each.what}: {test}"


def named(cases: list[Case], words: str) -> Case:
    return next(each for each in cases if words in each.what)


@pytest.mark.parametrize(
    ("words", "column", "outcome"),
    [("EXIF", OURS, RIGHT), ("EXIF", "ImageFolder", SILENT), ("byte order", OURS, CLEAR)],
)
def test_cases_run(words: str, column: str, outcome: str, cases: list[Case], tmp_path: Path) -> None:
    if column == "ImageFolder":
        pytest.importorskip("torchvision")
    row = run.cell(named(cases, words), column, tmp_path / "place")
    assert row["outcome"] == outcome and row["inputs"] and not (tmp_path / "place").exists()


def test_a_column_without_a_run_says_what_it_lacks(cases: list[Case], tmp_path: Path) -> None:
    assert run.cell(named(cases, "EXIF"), "peft", tmp_path) == {"outcome": "-", "why": "has no reading of pictures"}


TRACEBACK = "Traceback (most recent call last):\nValueError: cat.png is bad"


@pytest.mark.parametrize(
    ("said", "right", "outcome"),
    [
        (Said(0, "", ""), True, RIGHT),
        (Said(0, "", ""), False, SILENT),
        (Said(2, "", "cat.png is bad: replace it."), True, CLEAR),
        (Said(2, "", "a picture is bad"), True, CRASH),
        (Said(1, "", TRACEBACK), True, CRASH),
        (Said(0, "", TRACEBACK), True, CRASH),
        (Said(-9, "", "cat.png"), True, CRASH),
    ],
)
def test_the_criterion_of_a_command(said: Said, right: bool, outcome: str) -> None:
    assert of_command(said, ("cat.png",), lambda: (right, "seen")).outcome == outcome


def fails(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize(
    ("text", "outcome"), [("", RIGHT), ("cat.png is bad", CLEAR), ("bad", CRASH), ("one\ncat.png", CLEAR)]
)
def test_the_criterion_of_a_call(text: str, outcome: str) -> None:
    assert of_call(lambda: fails(text) if text else 1, ("cat.png",), lambda _: (True, "seen")).outcome == outcome


def test_what_does_not_end_is_ended() -> None:
    with pytest.raises(NotDone), patience(0.3):
        while True:
            pass
    value, why = isolated(lambda: time.sleep(60), seconds=0.5)
    assert value is None and "not done" in why


def test_a_case_at_fault_is_no_result() -> None:
    with pytest.raises(AtFault, match="cat"):
        isolated(lambda: fails("cat"))
