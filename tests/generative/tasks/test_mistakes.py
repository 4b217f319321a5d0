"""Mistakes in what ``vlmadapt tune`` is given: one sentence each, if possible before anything is loaded or trained."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("transformers")
pytest.importorskip("pycocoevalcap")

from tests.generative.tasks import world
from vlmadapt.cli import app
from vlmadapt.generative.models.small import save_small
from vlmadapt.generative.tasks import CaptionTask

SPLITS = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
IDENTITY = "fits/bitfit/seed-0/identity.json"


def write_captions(folder):
    """A set in the form of Karpathy's split; returns its entries."""
    folder.mkdir()
    entries = []
    for number, split in enumerate(SPLITS):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(folder / f"{number}.png")
        entries.append({"filename": f"{number}.png", "split": split, "sentences": [{"raw": "a plain red"}]})
    write_entries(folder, entries)
    return entries


def write_entries(folder, entries):
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models and sets, whole and damaged."""
    root = tmp_path_factory.mktemp("mistakes")
    for kind in ("caption", "vqa"):
        loaded = world.model(kind)
        save_small(loaded.model, world.tokenizer(), root / kind)
    write_captions(root / "good")
    entries = write_captions(root / "field")
    del entries[2]["sentences"]
    write_entries(root / "field", entries)
    write_captions(root / "damaged")
    (root / "damaged" / "1.png").write_bytes(b"no picture")
    write_captions(root / "gone")
    (root / "gone" / "3.png").unlink()
    write_captions(root / "cut")
    (root / "cut" / "dataset_flickr8k.json").write_text('{"images": [')
    (root / "empty").mkdir()
    return root


def run(place, *more):
    """Later options win."""
    options = ["--task", "caption", "--data", "karpathy", "--root", str(place / "good"), "--method", "bitfit"]
    options += ["--model", f"blip:{place / 'caption'}", "--epochs", "1", "--out", str(place / "out")]
    return CliRunner().invoke(app, ["tune", *options, *(text.format(place) for text in more)])


def sentence(result):
    assert result.exit_code == 2, (result.output, result.exception)
    return result.stderr.splitlines()[-1]


BEFORE_LOADING = [
    (["--task", "captoin"], "task is 'captoin': use caption, vqa, entailment."),
    (["--data", "coco"], "data is 'coco': use easy-vqa, karpathy,"),
    (["--task", "vqa"], "karpathy is a set for caption, not for vqa"),
    (["--root", "{}/nowhere"], "/nowhere holds no dataset_coco.json"),
    (["--root", "{}/empty"], "give the folder that holds it as --root."),
    (["--root", "{}/field"], "entry 2 has no list 'sentences': correct the file."),
    (["--root", "{}/cut"], "is not valid JSON: Expecting value at line 1: correct it or remove it."),
    (["--root", "{}/gone"], "3.png: restore them or correct --root."),
    (["--method", "adapter"], "method is 'adapter': use frozen, full,"),
    (["--method", "bitfit,"], "method is '': use frozen, full,"),
    (["--method", "bitfit,bitfit"], "name each once."),
    (["--method", "p-adapter:q=1"], "has no field 'q': PAdapterConfig knows task, form,"),
    (["--method", "p-adapter:p=high"], "PAdapterConfig.p is 'high': give a number."),
    (["--method", "p-adapter:reduction=2.5"], "PAdapterConfig.reduction is 2.5: give a whole number."),
    (["--method", "lora:alpha=big"], "LoRAConfig.alpha is 'big': give a number."),
    (["--method", "bitfit:epochs=2.5"], "TrainConfig.epochs is 2.5: give a whole number."),
    (["--method", "bitfit:lr"], "'lr' is not of the form key=value"),
    (["--lr", "0"], "TrainConfig.lr is 0.0: give a finite number, more than 0."),
    (["--train-limit", "0"], "the limit on train records is 0: give at least 1."),
    (["--set", "beam=2"], "'beam' is no option of a task: use prompt,"),
    (["--set", "beams=1.5"], "TaskOptions.beams is 1.5: give a whole number."),
    (["--set", "prompt=5"], "TaskOptions.prompt is 5: give words"),
    (["--model", "blipp"], "model is 'blipp': use small-blip, blip:FOLDER,"),
    (["--model", "coca:"], "model is 'coca:': use small-blip, blip:FOLDER,"),
]


@pytest.mark.parametrize(("options", "said"), BEFORE_LOADING, ids=[" ".join(options) for options, _ in BEFORE_LOADING])
def test_refused_before_a_model_is_loaded(options, said, place, monkeypatch):
    monkeypatch.setattr("vlmadapt.generative.front.open_model", None)
    assert said in sentence(run(place, *options))


BEFORE_TRAINING = [
    (["--model", "blip:{}/nowhere"], "nowhere is no folder"),
    (["--model", "blip:{}/empty"], "/empty could not be loaded"),
    (["--model", "blip:{}/vqa"], "does not describe pictures: give a captioning model, or another --task."),
    (["--model", "coca:coca_ViT-Q@random"], "the architecture 'coca_ViT-Q', which open_clip does not know"),
    (["--device", "tpu"], "device is 'tpu': use cpu,"),
    (["--test-limit", "1"], "captions need at least 2, since CIDEr compares pictures (see --test-limit)."),
    (["--root", "{}/damaged"], "1.png is not a readable picture"),
    (["--out", "{}/good/1.png"], "1.png cannot be written (File exists)"),
]


@pytest.mark.parametrize(
    ("options", "said"), BEFORE_TRAINING, ids=[" ".join(options) for options, _ in BEFORE_TRAINING]
)
def test_refused_before_training(options, said, place, monkeypatch):
    pytest.importorskip("open_clip")
    monkeypatch.setattr(CaptionTask, "loss", None)
    assert said in sentence(run(place, *options))


def test_zero_epochs_keep_the_initial_state(place):
    result = run(place, "--epochs", "0", "--method", "frozen,bitfit", "--out", "{}/zero")
    assert result.exit_code == 0, result.output
    rows = [line.split("|")[1:4] for line in result.stdout.splitlines() if line.startswith(("| frozen", "| bitfit"))]
    assert len(rows) == 2 and rows[0][1:] == rows[1][1:]


def test_other_settings_for_an_old_folder_are_said(place):
    first, same, other = (run(place, "--out", "{}/old", "--lr", lr) for lr in ("0.01", "0.01", "0.02"))
    assert (first.exit_code, same.exit_code) == (0, 0), same.output
    assert "other settings (lr was 0.01, is 0.02)" in sentence(other)
    replaced = run(place, "--out", "{}/old", "--lr", "0.02", "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    (place / "old" / IDENTITY).write_text("")
    assert "identity.json is not valid JSON" in sentence(run(place, "--out", "{}/old", "--lr", "0.02"))


def test_two_at_once_do_not_share_a_folder(place, monkeypatch):
    """The second is refused while the first trains; the first ends as if alone."""
    loss = CaptionTask.loss
    seen: list[Any] = []

    def meanwhile(self, indices):
        if not seen:
            seen.append(None)  # the other one trains nothing
            with ThreadPoolExecutor(1) as elsewhere:
                seen[0] = elsewhere.submit(run, place, "--out", "{}/shared").result()
        return loss(self, indices)

    monkeypatch.setattr(CaptionTask, "loss", meanwhile)
    first = run(place, "--out", "{}/shared")
    assert "shared is being written by another call in this process" in sentence(seen[0])
    assert first.exit_code == 0, first.output
    assert run(place, "--out", "{}/alone").exit_code == 0
    adapters = [place / name / "fits/bitfit/seed-0/adapter/adapter.safetensors" for name in ("shared", "alone")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
