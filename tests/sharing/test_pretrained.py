"""A folder that is given away: the same classifier, a card of its results, and nothing of this computer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

import vlmadapt
from tests.experiments.world import ColourEncoder
from tests.test_cli import call
from vlmadapt.classifier import Classifier
from vlmadapt.errors import FileError, InputError
from vlmadapt.sharing import pretrained
from vlmadapt.sharing.card import card


@pytest.fixture
def evaluated(run, tmp_path):
    """A copy of the run with results on its test split."""
    copied = shutil.copytree(run, tmp_path / "run")
    call("eval", copied, "--no-report")
    return copied


def test_it_is_the_same_classifier(run, tmp_path):
    folder = vlmadapt.save_pretrained(run, tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"adapter.safetensors", "adapter.json", "run.json", "README.md"}
    before, after = Classifier.load(run), vlmadapt.from_pretrained(folder)
    rows = torch.randn(5, before.adapter.width, generator=torch.Generator().manual_seed(0))
    assert torch.equal(after.adapter.predict_proba(rows), before.adapter.predict_proba(rows))
    assert after.class_names == before.class_names and after.run.contents == before.run.contents
    assert [len(row) for row in after.adapter.explain(rows)] == [len(row) for row in before.adapter.explain(rows)]
    assert after._votes(rows)[0][0].support.name[0].isdigit()


def test_nothing_of_this_computer_goes_along(evaluated, tmp_path):
    folder = vlmadapt.save_pretrained(evaluated, tmp_path / "out")
    for path in folder.iterdir():
        data = path.read_bytes()
        assert str(tmp_path).encode() not in data and b"/world" not in data and b".png" not in data, path.name


def test_the_card_holds_the_results_and_a_header_that_the_hub_reads(evaluated, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    folder = vlmadapt.save_pretrained(evaluated, tmp_path / "out", licence="cc-by-4.0")
    loaded = hub.ModelCard.load(folder / "README.md")
    assert loaded.data.library_name == "vlmadapt" and loaded.data.license == "cc-by-4.0"
    assert loaded.data.pipeline_tag == "image-classification" and "few-shot" in loaded.data.tags
    (found,) = loaded.data.eval_results
    results = json.loads((evaluated / "eval-world" / "results.json").read_text())
    accuracy = results["cells"][0]["test_accuracy"]
    assert found.metric_value == pytest.approx(accuracy, abs=1e-6) and found.dataset_name == "world"
    run = Classifier.load(evaluated).run
    assert f"{100 * accuracy:.1f} %" in loaded.text and results["dataset"]["split_hash"][:16] in loaded.text
    for needed in ("95 % (Wilson)", run.few_shot_split_hash, run.encoder.fingerprint):
        assert needed in loaded.text


def test_without_results_and_licence_it_says_so(run, tmp_path):
    text = (vlmadapt.save_pretrained(run, tmp_path / "out") / "README.md").read_text()
    assert "Not measured on test pictures" in text and "None is given." in text
    assert "model-index" not in text and "\nlicense" not in text


def test_names_are_no_markup(run, tmp_path):
    known = Classifier.load(run).run
    evil = replace(known, class_names=("<script>alert(1)</script>", "a|b", "---", "![x](http://y)"))
    evil = replace(evil, data=replace(known.data, name="x\n---\nlicense: mit"))
    text = card(evil, (), None)
    assert "<script>" not in text and "](http" not in text and text.count("\n---\n") == 1


def test_a_checkpoint_is_named_without_its_folder(run, tmp_path):
    encoder = ColourEncoder()
    encoder.name = "open_clip:ViT-B-32@/home/me/secret/model.safetensors"
    known = Classifier.load(run)
    adapter = known.adapter.__class__.load(run, encoder)
    named = replace(known.run, encoder=replace(known.run.encoder, name=encoder.name))
    folder = vlmadapt.save_pretrained(Classifier(adapter, encoder, named), tmp_path / "out")
    for path in folder.iterdir():
        assert b"secret" not in path.read_bytes()
    assert Classifier.load(folder, encoder).run.encoder.name == "open_clip:ViT-B-32@model.safetensors"
    assert adapter.encoder is encoder


def test_folders_of_something_else_are_left_alone(run, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileError, match="is not empty and no pretrained classifier"):
        vlmadapt.save_pretrained(run, tmp_path)
    vlmadapt.save_pretrained(run, tmp_path / "out")
    with pytest.raises(FileError, match="overwrite=True"):
        vlmadapt.save_pretrained(run, tmp_path / "out")
    vlmadapt.save_pretrained(run, tmp_path / "out", overwrite=True)


class Hub:
    """What is asked of huggingface_hub."""

    def __init__(self, folder=None):
        self.asked = []
        self.folder = folder

    def create_repo(self, name, **more):
        self.asked.append(("create", name, more))

    def upload_folder(self, **more):
        self.asked.append(("upload", more))

    def snapshot_download(self, name, **more):
        self.asked.append(("download", name, more))
        return str(self.folder)


def test_it_is_uploaded_only_when_asked_and_as_a_private_repository(run, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(pretrained, "_hub", lambda _argument: hub)
    with pytest.raises(InputError, match="push_to_hub is set without repo_id"):
        vlmadapt.save_pretrained(run, tmp_path / "out", push_to_hub=True)
    vlmadapt.save_pretrained(run, tmp_path / "out", repo_id="me/colours")
    assert hub.asked == []
    vlmadapt.save_pretrained(run, tmp_path / "out", repo_id="me/colours", push_to_hub=True, overwrite=True)
    assert hub.asked[0] == ("create", "me/colours", {"private": True, "exist_ok": True})
    assert hub.asked[1][1]["folder_path"] == str(tmp_path / "out") and len(hub.asked) == 2
    assert "README.md" in hub.asked[1][1]["allow_patterns"]


def test_it_is_fetched_only_when_asked(run, tmp_path, monkeypatch):
    folder = vlmadapt.save_pretrained(run, tmp_path / "out")
    hub = Hub(folder)
    monkeypatch.setattr(pretrained, "_hub", lambda _argument: hub)
    with pytest.raises(FileError, match="me/colours is no folder: pass download=True"):
        vlmadapt.from_pretrained("me/colours")
    found = vlmadapt.from_pretrained("me/colours", download=True, revision="abc", encoder=ColourEncoder())
    assert found.class_names and hub.asked[0][:2] == ("download", "me/colours")
