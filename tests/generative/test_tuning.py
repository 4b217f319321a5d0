"""Tuning by several methods on the tiny world: protocol, resume, results, table and picture."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.generative.tasks import world
from tests.modes import MODES
from vlmadapt import generative
from vlmadapt.cli import app
from vlmadapt.errors import FileError, InputError
from vlmadapt.generative import tuning
from vlmadapt.generative.data.records import Record
from vlmadapt.generative.models.small import save_small
from vlmadapt.generative.plan import TuningPlan
from vlmadapt.generative.results import TuningResults, merge_results
from vlmadapt.generative.tasks import CaptionTask, VQATask
from vlmadapt.generative.tasks.prior import prior_predictions
from vlmadapt.generative.tuning import fit_folder, predictions_of, run_tuning
from vlmadapt.provenance.identity import file_name, file_name_of_0_1_0
from vlmadapt.reporting.report.tuning import tuning_report
from vlmadapt.reporting.said_picture import is_right
from vlmadapt.reporting.tuning_table import kinds_table, tuning_table
from vlmadapt.training import TrainConfig

PLAN = TuningPlan(
    methods=("frozen", "bitfit", "bottleneck:width=4", "full:lr=0.003:epochs=25"),
    seeds=(0, 1),
    train=TrainConfig(epochs=4, batch_size=4),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world.records("vqa", tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return run_tuning(world.model(), data, PLAN, folder), folder


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_results_say_what_was_run(finished, data):
    results, folder = finished
    assert [(cell.method, cell.seed) for cell in results.cells] == [
        ("frozen", 0), ("bitfit", 0), ("bitfit", 1), ("bottleneck:width=4", 0), ("bottleneck:width=4", 1),
        ("full:lr=0.003:epochs=25", 0), ("full:lr=0.003:epochs=25", 1),
    ]  # fmt: skip
    assert results.methods["full:lr=0.003:epochs=25"]["training"]["lr"] == 0.003
    assert results.methods["bottleneck:width=4"]["width"] == 4
    assert results.data["split_hash"] == data.split_hash and results.data["records"] == {
        "train": 8,
        "val": 8,
        "test": 8,
    }
    assert "read once" in results.protocol["selection"] and "transformers" in results.versions
    frozen, full = results.cells[0], results.cells[-1]
    assert frozen.trainable_parameters == 0 and frozen.seconds_per_step is None
    assert full.trainable_parameters > 10_000 and full.seconds_per_step > 0 and full.peak_memory_mib > 50
    assert set(full.by_kind) == {"long", "short"}
    assert results.mean("full:lr=0.003:epochs=25", "accuracy")[0] > results.mean("frozen", "accuracy")[0]
    assert len(predictions_of(folder, "bitfit", 1)) == 8


def test_files_round_trip_and_the_table_shows_every_method(finished, tmp_path):
    results, _ = finished
    results.save(tmp_path)
    assert TuningResults.load(tmp_path) == results
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + len(results.cells)
    table = tuning_table(results)
    assert [row[0] for row in table.rows] == [*results.methods, "answer prior"] and "2 seeds" in table.notes[0]
    assert table.header[:3] == ["method", "accuracy", "95 %"] and table.rows[0][2].startswith("[")
    assert "answer prior" in kinds_table(results).splitlines()[-1]
    earlier = replace(results, prior={}, prior_by_kind={})
    assert [row[0] for row in tuning_table(earlier).rows] == list(results.methods)
    assert "±" in table.rows[1][1] and "±" not in table.rows[0][1]
    (tmp_path / "results.json").write_text('{"format": 1, "cells": [{}]}')
    with pytest.raises(FileError, match="not a results file"):
        TuningResults.load(tmp_path)


def test_results_of_methods_run_apart_are_merged(finished):
    results, _ = finished
    apart = [
        replace(results, methods={name: config}, cells=tuple(results.of(name)))
        for name, config in results.methods.items()
    ]
    assert merge_results(apart) == results
    with pytest.raises(InputError, match="differ in task"):
        merge_results([results, replace(results, task="caption")])


def test_the_prior_is_what_is_right_most_often_of_its_kind():
    def asked(name, kind, answer):
        return Record(name, Path(f"{name}.png"), "train", "what?", answers=((answer, 1),), kind=kind)

    train = [asked(str(row), "colour", answer) for row, answer in enumerate(("red", "blue", "blue"))]
    train += [asked("s", "shape", "circle"), asked("t", "shape", "triangle")]
    records = [asked("a", "colour", "red"), asked("b", "shape", "circle"), asked("c", "size", "small")]
    assert prior_predictions(train, records) == ["blue", "circle", "blue"]
    labelled = [Record(str(row), Path("x.png"), "train", label=label) for row, label in enumerate(("neutral",) * 2)]
    assert prior_predictions(labelled, labelled[:1]) == ["neutral"]
    told = [
        Record("a", Path("a.png"), "train", captions=("a cat", "a dog")),
        Record("b", Path("b.png"), "train", captions=("a dog",)),
    ]
    assert prior_predictions(told, told) == ["a dog"] * 2


def test_a_blind_method_says_the_same_of_every_picture(data, tmp_path):
    plan = replace(PLAN, seeds=(0,), methods=("full:lr=0.003:epochs=25", "full:lr=0.003:epochs=25:blind=yes"))
    results = run_tuning(world.model(), data, plan, tmp_path)
    seeing, blind = (predictions_of(tmp_path, label, 0) for label in plan.methods)
    by_question: dict[str, set[str]] = {}
    for record in data.test:
        by_question.setdefault(record.prompt, set()).add(blind[record.id])
    assert all(len(said) == 1 for said in by_question.values()) and len(set(seeing.values())) > len(by_question)
    assert results.methods[plan.methods[1]]["blind"] is True
    assert "blind" not in results.methods[plan.methods[0]]
    with pytest.raises(InputError, match="blind is 'perhaps': use yes or no"):
        run_tuning(world.model(), data, replace(plan, methods=("full:blind=perhaps",)), tmp_path / "other")


def test_the_model_comes_back_as_it_was(data, tmp_path):
    loaded = world.model()
    before = state(loaded.model)
    run_tuning(loaded, data, replace(PLAN, seeds=(0,), methods=("full", "lora:rank=2")), tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in state(loaded.model).items())


def test_the_test_split_is_read_after_every_fit(data, tmp_path, monkeypatch):
    seen = []
    original = VQATask.predict

    def watched(self, records, *more, **options):
        seen.append(records[0].split)
        return original(self, records, *more, **options)

    monkeypatch.setattr(VQATask, "predict", watched)
    plan = replace(PLAN, methods=("bitfit", "full"), seeds=(0, 1))
    run_tuning(world.model(), data, plan, tmp_path)
    first = seen.index("test")
    assert seen[first:] == ["test"] * 4 and set(seen[:first]) == {"val"}


def test_the_best_epoch_on_validation_is_kept(data, tmp_path, monkeypatch):
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.4])
    monkeypatch.setattr(VQATask, "score_validation", lambda self: (next(scores),))
    results = run_tuning(world.model(), data, replace(PLAN, methods=("full",), seeds=(0,)), tmp_path)
    assert results.cells[0].best_epoch == 1 and results.cells[0].validation == 0.9


def test_interrupted_it_goes_on_and_ends_where_it_would_have(data, tmp_path, monkeypatch):
    plan = replace(PLAN, methods=("bitfit", "bottleneck:width=4"), seeds=(0,))
    whole = run_tuning(world.model(), data, plan, tmp_path / "whole")
    original, calls = VQATask.loss, []

    def interrupted(self, indices):
        calls.append(1)
        if len(calls) == 13:  # in the third epoch of the second method
            raise KeyboardInterrupt
        return original(self, indices)

    monkeypatch.setattr(VQATask, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tuning(world.model(), data, plan, tmp_path / "cut")
    monkeypatch.setattr(VQATask, "loss", original)
    kept = (tmp_path / "cut" / "fits" / "bitfit" / "seed-0" / "fit.json").stat().st_mtime_ns
    again = run_tuning(world.model(), data, plan, tmp_path / "cut")
    assert (tmp_path / "cut" / "fits" / "bitfit" / "seed-0" / "fit.json").stat().st_mtime_ns == kept
    for one, other in zip(whole.cells, again.cells, strict=True):
        assert (one.values, one.validation, one.best_epoch) == (other.values, other.validation, other.best_epoch)
    for name in ("bitfit", "bottleneck:width=4"):
        files = [
            fit_folder(tmp_path / run / "fits", name, 0) / "adapter" / "adapter.safetensors" for run in ("whole", "cut")
        ]
        assert files[0].read_bytes() == files[1].read_bytes()


ALIKE = ("bitfit:lr=1e-1", "bitfit:lr=1e+1")  # one folder for both, until 0.1.0


def test_labels_that_look_alike_keep_their_own_fits(data, tmp_path):
    assert len({file_name_of_0_1_0(label) for label in ALIKE}) == 1
    plan = replace(PLAN, methods=ALIKE, seeds=(0,))
    together = run_tuning(world.model(), data, plan, tmp_path / "both")
    for number, label in enumerate(ALIKE):
        alone = run_tuning(world.model(), data, replace(plan, methods=(label,)), tmp_path / str(number))
        assert together.of(label)[0].validation == alone.cells[0].validation
        assert predictions_of(tmp_path / "both", label, 0) == predictions_of(tmp_path / str(number), label, 0)
    folders = [fit_folder(tmp_path / "both" / "fits", label, 0) for label in ALIKE]
    rates = [json.loads((folder / "identity.json").read_text())["config"]["training"]["lr"] for folder in folders]
    assert rates == [0.1, 10.0]


def test_a_folder_of_0_1_0_serves_the_label_whose_fit_it_holds(data, tmp_path):
    plan = replace(PLAN, methods=ALIKE[1:], seeds=(0,))
    run_tuning(world.model(), data, plan, tmp_path)
    said = predictions_of(tmp_path, ALIKE[1], 0)
    fits = tmp_path / "fits"
    shutil.move(fits / file_name(ALIKE[1]), fits / file_name_of_0_1_0(ALIKE[1]))
    assert predictions_of(tmp_path, ALIKE[1], 0) == said
    with pytest.raises(FileError, match="could not read"):
        predictions_of(tmp_path, ALIKE[0], 0)
    kept = (fits / file_name_of_0_1_0(ALIKE[1]) / "seed-0" / "fit.json").read_text()
    run_tuning(world.model(), data, replace(plan, methods=ALIKE), tmp_path)
    assert (fits / file_name_of_0_1_0(ALIKE[1]) / "seed-0" / "fit.json").read_text() == kept
    assert sorted(path.name for path in fits.iterdir()) == sorted([file_name(ALIKE[0]), file_name_of_0_1_0(ALIKE[1])])


def test_a_changed_setting_is_fitted_again(data, tmp_path):
    plan = replace(PLAN, methods=("bitfit",), seeds=(0,))
    run_tuning(world.model(), data, plan, tmp_path)
    fitted = tmp_path / "fits" / "bitfit" / "seed-0" / "fit.json"
    before = fitted.read_text()
    run_tuning(world.model(), data, replace(plan, lr=0.5), tmp_path)
    assert fitted.read_text() != before


@pytest.mark.parametrize("methods, seeds, said", [
    ((), (0,), "methods is"), (("bitfit",), (0, 0), "seeds"), (("bitfit", "bitfit"), (0,), "name each once"),
    (("adapters",), (0,), "method is 'adapters'"), (("bitfit:width=3",), (0,), "has no field 'width'"),
])  # fmt: skip
def test_a_bad_plan_is_refused_before_training(methods, seeds, said, data, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "fit_loop", None)
    with pytest.raises(InputError, match=said):
        run_tuning(world.model(), data, replace(PLAN, methods=methods, seeds=seeds), tmp_path)


def test_the_command_ends_with_a_table_and_a_picture(data, tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    from vlmadapt.generative import front

    captions = world.records("caption", data.root)
    monkeypatch.setattr(front, "load_records", lambda name, task, root: captions)
    monkeypatch.setattr(CaptionTask, "score_validation", lambda self: (0.0,))
    loaded = world.model("caption")
    save_small(loaded.model, world.tokenizer(), tmp_path / "model")
    arguments = ["tune", "--task", "caption", "--method", "frozen,bitfit", "--model", f"blip:{tmp_path / 'model'}"]
    arguments += ["--epochs", "1", "--set", "longest=4", "--test-limit", "4", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output + str(result.exception)
    assert "CIDEr" in result.output and "bitfit" in result.output and "said.png" in result.output
    with Image.open(tmp_path / "out" / "said.png") as picture:
        assert picture.width > 600 and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50
    value = json.loads((tmp_path / "out" / "results.json").read_text())
    assert value["data"]["records"]["test"] == 4 and value["protocol"]["options"]["longest"] == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What each method says" in page and page.count("data-facets") == 4
    bad = CliRunner().invoke(app, ["tune", "--task", "caption", "--set", "beam=2", "--out", str(tmp_path / "bad")])
    assert bad.exit_code == 2 and "no option of a task" in bad.output + bad.stderr


def test_tune_in_python(data, tmp_path):
    given = {"data": data, "model": world.model(), "methods": "bitfit", "epochs": 1, "settings": {"batch": 4}}
    written = []

    def finish(results, records, folder):
        written.append((len(records.test), sorted(path.name for path in folder.glob("[!.]*"))))

    results = generative.tune(task="vqa", test_limit=4, out=tmp_path / "run", finish=finish, **given)
    assert [cell.method for cell in results.cells] == ["bitfit"] and results.protocol["options"]["batch"] == 4
    assert written == [(4, ["fits", "results.csv", "results.json", "tuned.json"])]
    assert TuningResults.load(tmp_path / "run") == results
    with pytest.raises(InputError, match="task is 'caption', but data are records for vqa"):
        generative.tune(task="caption", out=tmp_path / "bad", **given)
    with pytest.raises(InputError, match="'beam' is no option"):
        generative.tune(task="vqa", out=tmp_path / "bad", **{**given, "settings": {"beam": 2}})
    with pytest.raises(TypeError, match="task"):
        generative.tune(**given)
    assert not (tmp_path / "bad").exists()


def test_a_folder_of_another_run_is_refused_before_any_training(data, tmp_path, monkeypatch):
    given = {"task": "vqa", "model": world.model(), "epochs": 1, "out": tmp_path, "settings": {"batch": 4}}
    generative.tune(data=data, methods=("frozen", "bitfit"), **given)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "fit_loop", None)
        for other, said in (
            ({"methods": ("frozen",)}, "1 fits that this run would not have, bitfit at seed 0"),
            ({"epochs": 2}, r"training\.epochs was 1, is 2"),
            ({"lr": 0.5}, "lr was None, is 0.5"),
            ({"settings": {"batch": 2}}, r"options\.batch was 4, is 2"),
            ({"train_limit": 4}, "limits was"),
            ({"data": replace(data, name="others")}, "of data set 'tiny world', not of 'others'"),
            ({"model": world.model(seed=1)}, "another model"),
        ):
            with pytest.raises(InputError, match=said):
                generative.tune(**{"data": data, "methods": ("frozen", "bitfit"), **given, **other})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    more = generative.tune(data=data, methods=("frozen", "bitfit", "bottleneck:width=4"), **given)
    assert len(more.cells) == 3
    kept = {path: value for path, value in before.items() if "fits" in path.parts}
    assert kept and all(path.read_bytes() == value for path, value in kept.items())
    replaced = generative.tune(data=data, methods=("frozen",), overwrite=True, **given)
    assert len(replaced.cells) == 1 and [path.name for path in (tmp_path / "fits").iterdir()] == ["frozen"]


@pytest.mark.parametrize("mode", MODES)
def test_tuning_is_the_same_whatever_the_caller_has_set(mode, data, tmp_path):
    given = {"task": "vqa", "data": data, "methods": ("bitfit",), "epochs": 2, "settings": {"batch": 4}}
    loaded = world.model()
    with MODES[mode]():
        found = generative.tune(model=loaded, out=tmp_path / "found", **given)
    plain = generative.tune(model=world.model(), out=tmp_path / "plain", **given)
    assert [cell.values for cell in found.cells] == [cell.values for cell in plain.cells]
    paths = [
        fit_folder(tmp_path / run / "fits", "bitfit", 0) / "adapter" / "adapter.safetensors"
        for run in ("found", "plain")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_picture_marks_what_the_measure_counts(data, tmp_path):
    black = next(record for record in data.test if len(record.answers) == 2)  # eight said black, two dark
    said = {"black": True, "Black!": True, "the black": True, "dark": True, "red": False, "": False, "the": False}
    assert {text: is_right(black, text) for text in said} == said
    one = replace(black, answers=(("black", 9), ("dark", 1)))
    assert is_right(one, "dark") is False
    captioned, stated = (world.records(task, tmp_path).test[0] for task in ("caption", "entailment"))
    assert is_right(captioned, captioned.captions[0]) is None
    assert is_right(stated, stated.label) is True and is_right(stated, "") is False


def test_the_report_shows_measures_costs_and_answers(finished, data, tmp_path):
    results, folder = finished
    predictions = {label: predictions_of(folder, label, 0) for label in results.methods}
    evil = replace(data.test[0], prompt="<script>alert(1)</script>?")
    tested = [evil, *data.test[1:]]
    report = tuning_report(results, tested, predictions)
    names = [section.name for section in report.sections]
    assert names[:1] == ["Measures"] and {"Cost", "Answers", "Settings"} <= set(names)
    page = report.html()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;?" in page
    assert "<symbol" in page and "<symbol" not in tuning_report(results, tested, predictions, pictures=False).html()
    assert [section.name for section in tuning_report(results).sections] == [
        name for name in names if name != "Answers"
    ]


def test_the_report_of_measures_above_one_where_some_methods_are_fitted_once(finished):
    """Captions: CIDEr is no share, and the frozen model has one fit whatever the number of seeds."""
    results, _ = finished
    assert len(results.of("frozen")) == 1 < len(results.of("bitfit"))
    cells = tuple(replace(cell, values={"cider": 1.5 + cell.seed, "bleu4": 0.3}, by_kind={}) for cell in results.cells)
    captions = replace(results, task="caption", metric="cider", cells=cells, prior={}, prior_by_kind={})
    assert "CIDEr" in tuning_report(captions).html()
    one = tuple(cell for cell in cells if cell.seed == 0)
    assert "CIDEr" in tuning_report(replace(captions, cells=one, protocol={**results.protocol, "seeds": [0]})).html()
