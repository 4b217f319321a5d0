"""Given features through the front doors: the same results as pictures, and what cannot be had without an encoder."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import vlmadapt
from tests.data.test_feature_file import parted, plain, without_text, write
from tests.experiments.world import TIP, ColourEncoder, make_world
from vlmadapt import backbones
from vlmadapt.adapters import adapters_without_text
from vlmadapt.classifier import Classifier
from vlmadapt.cli import app
from vlmadapt.errors import InputError
from vlmadapt.files import read_json

TIP_NAME = "tip-adapter"
GRID = {"search_beta": (1, 4, 2), "search_alpha": (1, 4, 2)}
COMMON: dict[str, Any] = {"adapter": TIP_NAME, "settings": GRID, "shots": 2}


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ColourEncoder:
    encoder = ColourEncoder()
    monkeypatch.setattr(backbones, "load_encoder", lambda *_, **__: encoder)
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path / "cache"))
    return encoder


@pytest.fixture
def extracted(tmp_path: Path, colours: ColourEncoder) -> tuple[Path, Path]:
    """A folder of pictures, and the file that ``vlmadapt features`` makes of it."""
    world = make_world(tmp_path / "world")
    path = tmp_path / "colours.safetensors"
    run("features", world, "--out", path, "--template", "a drawing of a {}.")
    colours.pictures_encoded = 0
    return world, path


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def test_the_file_of_features_gives_the_classifier_of_the_pictures(
    extracted: tuple[Path, Path], tmp_path: Path, colours: ColourEncoder
) -> None:
    world, path = extracted
    ours = vlmadapt.fit(path, out=tmp_path / "features", **COMMON)
    assert colours.pictures_encoded == 0
    theirs = vlmadapt.fit(
        world, encoder=colours, out=tmp_path / "pictures", templates=["a drawing of a {}."], no_cache=True, **COMMON
    )
    for name, tensor in theirs.adapter.state_dict().items():
        assert torch.equal(tensor, ours.adapter.state_dict()[name]), name
    for name in ("support", "validation", "few_shot_split_hash", "templates", "encoder", "val_accuracy", "precision"):
        assert getattr(ours.run, name) == getattr(theirs.run, name), name
    found = [
        vlmadapt.evaluate(tmp_path / fitted, data).accuracy for fitted in ("features", "pictures") for data in extracted
    ]
    assert len(set(found)) == 1


def test_pictures_are_predicted_by_the_backbone_that_the_file_names(
    extracted: tuple[Path, Path], tmp_path: Path, colours: ColourEncoder
) -> None:
    world, path = extracted
    classifier = vlmadapt.fit(path, out=tmp_path / "run", **COMMON)
    picture = next((world / "test" / "fish").iterdir())
    with pytest.raises(InputError, match="only features of colours are at hand: save the classifier and load it"):
        classifier.predict([picture])
    loaded = Classifier.load(tmp_path / "run")
    assert loaded.encoder is colours and loaded.predict([picture])[0].classes
    assert "fish" in run("predict", tmp_path / "run", picture, "--explain")


def test_evaluating_features_needs_no_backbone(
    extracted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = extracted
    vlmadapt.fit(path, out=tmp_path / "run", **COMMON)
    monkeypatch.setattr(backbones, "load_encoder", lambda *_, **__: pytest.fail("the backbone was loaded"))
    found = vlmadapt.evaluate(tmp_path / "run", out=tmp_path / "eval")
    assert found.results.encoder == {
        "name": "colours",
        "fingerprint": ColourEncoder().fingerprint,
        "width": 16,
        "logit_scale": 20.0,
    }


def test_a_picture_of_the_fit_is_known_by_its_bytes(extracted: tuple[Path, Path], tmp_path: Path) -> None:
    """Training pictures of the features as test pictures of another folder, and the other way round."""
    world, path = extracted
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    (world / "train").rename(swapped / "test")
    (world / "test").rename(swapped / "train")
    of_features = vlmadapt.fit(path, out=tmp_path / "a", **COMMON)
    with pytest.raises(InputError, match="test pictures were used to fit this classifier"):
        vlmadapt.evaluate(tmp_path / "a", swapped)
    of_pictures = vlmadapt.fit(swapped, out=tmp_path / "b", no_cache=True, allow_short=True, **COMMON)
    with pytest.raises(InputError, match="test pictures were used to fit this classifier"):
        vlmadapt.evaluate(of_pictures, path)
    assert of_features.run.contents != of_pictures.run.contents


def test_classifiers_of_features_evaluate_others_of_the_same_texts(tmp_path: Path) -> None:
    first = write(tmp_path / "first.safetensors", parted())
    classifier = vlmadapt.fit(first, out=tmp_path / "run", **COMMON)
    assert classifier.adapter.logit_scale == 100 and classifier.encoder.name == "given features"
    more = {**plain(6, seed=9), "text_features": parted()["text_features"]}
    for data, count in ((None, 12), (write(tmp_path / "more.npz", more), 18)):
        for given in (classifier, tmp_path / "run"):
            found = vlmadapt.evaluate(given, data)
            assert found.results.dataset["test"] == count and found.results.encoder["logit_scale"] == 100
    torch.testing.assert_close(found.accuracy, vlmadapt.evaluate(classifier, tmp_path / "more.npz").accuracy)


@pytest.mark.parametrize(
    "changes", [{"text_features": torch.ones(3, 8).triu()}, {"text_features": torch.ones(3, 5), "width": 5}]
)
def test_features_of_another_space_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    vlmadapt.fit(write(tmp_path / "first.safetensors", parted()), out=tmp_path / "run", **COMMON)
    tensors = {**plain(seed=9), "text_features": changes["text_features"]}
    tensors["image_features"] = tensors["image_features"][:, : changes.get("width", 8)].contiguous()
    other = write(tmp_path / "other.safetensors", tensors)
    with pytest.raises(InputError, match=r"other\.safetensors holds features of another width or of other class texts"):
        vlmadapt.evaluate(tmp_path / "run", other)


def test_features_of_another_encoder_are_refused(extracted: tuple[Path, Path], tmp_path: Path) -> None:
    _, path = extracted
    names = {"class_names": json.dumps(["apple", "fish", "leaf", "sun"])}
    tensors = {"image_features": torch.rand(12, 16), "labels": torch.arange(4).repeat(3), "text": torch.rand(4, 16)}
    unknown = write(tmp_path / "unknown.safetensors", tensors, names)
    vlmadapt.fit(path, out=tmp_path / "run", **COMMON)
    with pytest.raises(InputError, match=r"another encoder \(given features\) than the .* fitted with \(colours\)"):
        vlmadapt.evaluate(tmp_path / "run", unknown)


def test_pictures_need_an_encoder(tmp_path: Path) -> None:
    names = {"class_names": json.dumps(["apple", "fish", "leaf"])}
    vlmadapt.fit(write(tmp_path / "a.safetensors", parted(), names), out=tmp_path / "run", **COMMON)
    world = make_world(tmp_path / "world", classes=("apple", "fish", "leaf"))
    words = "pictures cannot be encoded, for the features come from a file that names no backbone"
    with pytest.raises(InputError, match=words):
        Classifier.load(tmp_path / "run").predict([next((world / "test" / "fish").iterdir())])
    with pytest.raises(InputError, match=words):
        vlmadapt.evaluate(tmp_path / "run", world)
    said = run("predict", tmp_path / "run", world / "test" / "fish", code=2)
    assert words in said and "Traceback" not in said and said.count("\n") == 1


def test_compare_with_every_method_that_needs_no_tower(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", parted())
    methods = ["zero-shot", TIP, "hegraph:epochs=1", "auto", "gda", "ncm"]
    lines: list[str] = []
    results = vlmadapt.compare(path, adapters=methods, shots=[2], seeds=1, out=tmp_path / "out", report=lines.append)
    assert len(results.cells) == 6 and min(cell.values["accuracy"] for cell in results.cells) > 0.6
    assert any("no negative text" in line for line in lines) and any("100 is taken" in line for line in lines)
    for name in ("coop", "clip-lora"):
        with pytest.raises(InputError, match=f"{name} learns through the encoder's text tower"):
            vlmadapt.compare(path, adapters=["zero-shot", name], shots=[2], seeds=1)
    again = vlmadapt.compare(path, adapters=methods, shots=[2], seeds=1, out=tmp_path / "out")
    assert [cell.values for cell in again.cells] == [cell.values for cell in results.cells]
    with pytest.raises(InputError, match="other settings"):
        vlmadapt.compare(path, adapters=methods, shots=[2], seeds=1, out=tmp_path / "out", logit_scale=50.0)


def test_the_scale_is_the_option_s_then_the_file_s(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {**parted(), "logit_scale": torch.tensor(4.6052)})
    lines: list[str] = []
    own = vlmadapt.fit(path, out=tmp_path / "run", report=lines.append, **COMMON)
    assert own.adapter.logit_scale == pytest.approx(4.6052)
    assert any("looks like the logarithm that CLIP keeps: if it is, pass --logit-scale 100" in line for line in lines)
    told = vlmadapt.fit(path, logit_scale=30.0, **COMMON)
    assert told.adapter.logit_scale == 30
    with pytest.raises(InputError, match=r"fit with another logit scale"):
        vlmadapt.fit(path, out=tmp_path / "run", resume=True, logit_scale=30.0, **COMMON)
    assert vlmadapt.fit(path, out=tmp_path / "run", resume=True, **COMMON).run.identity == own.run.identity
    assert vlmadapt.evaluate(tmp_path / "run").results.encoder["logit_scale"] == pytest.approx(4.6052)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": 2}, "views is 2, but .* holds features already"),
        ({"precision": "bf16"}, "precision is 'bf16', but .* holds features already"),
        ({"encoder": "open_clip:ViT-B-32@random"}, "encoder is 'open_clip:ViT-B-32@random', but .* leave it out"),
        ({"encoder": ColourEncoder()}, "encoder is 'colours', another than made the features in"),
        ({"templates": ["a {}."]}, "templates is given, but .* holds its class texts already"),
        ({"logit_scale": -1.0}, r"logit_scale is -1\.0: give the encoder's"),
        ({"logit_scale": float("nan")}, "logit_scale is nan"),
    ],
)
def test_options_of_pictures_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "a.safetensors", parted())
    with pytest.raises(InputError, match=words):
        vlmadapt.fit(path, **{**COMMON, **options})


def test_the_scale_is_none_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"logit_scale is 50\.0, but 'world' holds pictures"):
        vlmadapt.fit(make_world(tmp_path / "world"), logit_scale=50.0, **COMMON)


def test_the_encoder_itself_may_be_given(extracted: tuple[Path, Path], colours: ColourEncoder) -> None:
    world, path = extracted
    classifier = vlmadapt.fit(path, encoder=colours, **COMMON)
    assert classifier.predict([next((world / "test" / "sun").iterdir())])[0].classes


def test_rows_in_two_splits_are_warned_of(tmp_path: Path) -> None:
    tensors = parted()
    tensors["test_features"] = tensors["train_features"].clone()
    with pytest.warns(UserWarning, match="test pictures were used to fit"):
        vlmadapt.compare(write(tmp_path / "a.safetensors", tensors), adapters=["zero-shot"], shots=[2], seeds=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vlmadapt.compare(write(tmp_path / "b.safetensors", parted()), adapters=["zero-shot"], shots=[2], seeds=1)


def test_the_commands(extracted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = extracted
    monkeypatch.chdir(tmp_path)
    assert "saved in runs/colours-tip-adapter-2" in run("fit", path, "--adapter", TIP_NAME, "--shots", 2)
    run("eval", "runs/colours-tip-adapter-2")
    run("compare", path, "--adapters", f"zero-shot,{TIP}", "--shots", "1,2", "--seeds", 1)
    assert read_json(tmp_path / "runs/compare-colours/results.json")["encoder"]["name"] == "colours"
    assert "nothing wrong found" in run("data", "check", path)
    assert "holds features already: give pictures" in run("features", path, code=2)
    plain_file = write(tmp_path / "plain.npz", plain())
    said = run("fit", plain_file, "--adapter", "gda", "--shots", 2)
    assert "(--logit-scale)" in said and "vlmadapt eval" in said and "vlmadapt predict" not in said
    run("fit", plain_file, "--adapter", "gda", "--shots", 2, "--logit-scale", 50, "--out", "runs/other")


def test_a_damaged_file_of_ours_is_told(extracted: tuple[Path, Path], tmp_path: Path) -> None:
    _, path = extracted
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as stream:
        metadata = stream.metadata()
    del metadata["content_sha256"]
    for name, value, words in (
        ("encoder", "{}", "does not say what encoder made it"),
        ("precision", '"fp8"', "does not say what encoder made it"),
        ("format", "2", "has format 2"),
        ("paths", '{"train": []}', "does not name its 20 pictures of train"),
        ("dataset", "{}", "does not say what prompts it holds"),
    ):
        safetensors.torch.save_file(tensors, tmp_path / "bad.safetensors", {**metadata, name: value})
        with pytest.raises(vlmadapt.errors.FileError, match=rf"bad\.safetensors {words}"):
            vlmadapt.load_dataset(tmp_path / "bad.safetensors")
    tensors["text"] += 1
    safetensors.torch.save_file(tensors, tmp_path / "bad.safetensors", {**metadata, "content_sha256": "0" * 64})
    with pytest.raises(vlmadapt.errors.FileError, match=r"bad\.safetensors is damaged or was edited"):
        vlmadapt.load_dataset(tmp_path / "bad.safetensors")


def test_data_without_test_pictures_may_be_extracted(tmp_path: Path, colours: ColourEncoder) -> None:
    world = make_world(tmp_path / "world", test=0)
    run("features", world, "--out", tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="has no test pictures"):
        dataset = vlmadapt.load_dataset(tmp_path / "a.safetensors")
    assert len(dataset.train) == 20 and dataset.test == ()
    assert vlmadapt.fit(dataset, **COMMON).run.val_accuracy is not None


def test_features_of_data_without_splits_are_evaluated_whole(tmp_path: Path, colours: ColourEncoder) -> None:
    world = make_world(tmp_path / "world")
    run("features", world / "train", "--out", tmp_path / "other.safetensors")
    seen = vlmadapt.fit(tmp_path / "other.safetensors", **COMMON)
    assert vlmadapt.evaluate(seen, tmp_path / "other.safetensors").results.dataset["test"] == 8
    shutil.rmtree(world / "train")
    (world / "val").rename(world / "train")
    unseen = vlmadapt.fit(world, encoder=colours, no_cache=True, **COMMON)
    assert vlmadapt.evaluate(unseen, tmp_path / "other.safetensors").results.dataset["test"] == 20


def test_the_evidence_is_drawn_without_the_pictures(extracted: tuple[Path, Path], tmp_path: Path) -> None:
    world, path = extracted
    vlmadapt.fit(path, out=tmp_path / "run", **COMMON)
    picture = next((world / "test" / "leaf").iterdir())
    run("predict", tmp_path / "run", picture, "--explain-picture", tmp_path / "why.png")
    assert (tmp_path / "why.png").is_file()


def test_without_class_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fit and eval as with text, by a method that can do without."""
    monkeypatch.chdir(tmp_path)
    path, other = (write(tmp_path / f"{name}.npz", without_text(parted())) for name in ("a", "b"))
    tensors = without_text(plain(seed=9))
    unseen = write(tmp_path / "unseen.safetensors", tensors)
    vlmadapt.fit(path, out=Path("run"), **COMMON)
    assert vlmadapt.evaluate("run").accuracy > 0.6 and vlmadapt.evaluate("run", unseen).accuracy > 0.6
    assert vlmadapt.evaluate("run", other).accuracy == vlmadapt.evaluate("run").accuracy
    classifier = Classifier.load("run")
    assert not classifier.adapter.has_text and classifier.run.encoder.name == "given features"
    tensors["image_features"] = tensors["image_features"][:, :5].contiguous()
    for wrong in (write(tmp_path / "narrow.npz", tensors), write(tmp_path / "text.npz", parted())):
        with pytest.raises(InputError, match="features of another width or of other class texts"):
            vlmadapt.evaluate("run", wrong)
    again = vlmadapt.fit(path, out=Path("run"), resume=True, **COMMON)
    assert again.run.identity == classifier.run.identity


def test_without_class_text_compare_takes_what_can_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.safetensors", without_text(parted()))
    lines: list[str] = []
    results = vlmadapt.compare(path, shots=[2], seeds=1, out=tmp_path / "out", report=lines.append)
    assert [cell.method for cell in results.cells] == adapters_without_text()
    assert min(cell.values["accuracy"] for cell in results.cells) > 0.6
    assert any("no class text: only methods that can do without" in line for line in lines)
    again = vlmadapt.compare(path, shots=[2], seeds=1, out=tmp_path / "out")
    assert [cell.values for cell in again.cells] == [cell.values for cell in results.cells]
    able = ", ".join(adapters_without_text())
    with pytest.raises(InputError, match=f"zero-shot needs class text, and there is none here: .* or use {able}"):
        vlmadapt.compare(path, adapters=["gda", "zero-shot"], shots=[2], seeds=1)
    monkeypatch.chdir(tmp_path)
    assert "taskres needs class text" in run("fit", path, "--adapter", "taskres", "--shots", 2, code=2)
    run("fit", path, "--adapter", "hegraph", "--set", "epochs=1", "--shots", 2, "--out", "graph")
    assert "graph is that of the visual nodes" in run("graph", "graph")
    assert "nothing wrong found" in run("data", "check", path)


def test_without_class_text_other_classes_cannot_be_answered(tmp_path: Path) -> None:
    labels = torch.arange(4).repeat(8)
    tensors = {"features": torch.eye(4)[labels] + 0.1 * torch.randn(32, 4), "labels": labels}
    paths = [write(tmp_path / f"{name}.npz", tensors) for name in ("a", "b")]
    settings: dict[str, Any] = {"adapters": ["ncm"], "shots": [1], "seeds": 1}
    with pytest.raises(InputError, match="'a' is to be tested among classes that were not fitted, and has no text"):
        vlmadapt.compare(paths[0], protocol="base-to-new", **settings)
    results = vlmadapt.compare(paths[0], protocol="shift", test_on=[str(paths[1])], **settings)
    assert [cell.tested_on for cell in results.cells] == ["a", "b"]
    assert len(vlmadapt.compare(paths[0], protocol="no-val", **settings).cells) == 1
