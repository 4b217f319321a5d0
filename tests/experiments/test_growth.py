"""A class, or pictures, added to a saved classifier: what a fit with them would have saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmadapt
from tests.experiments.world import ColourEncoder, make_world
from tests.test_cli import call
from vlmadapt import backbones
from vlmadapt.classifier import Classifier
from vlmadapt.errors import FileError, InputError

METHODS = {"tip-adapter": {}, "gda": {}, "proker": {}, "ss-text": {}, "ncm": {"centre": False}}
NOTHING_SEARCHED = {"shots": "all", "protocol": "no-val", "no_cache": True}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(backbones, "load_encoder", lambda name, **_options: ColourEncoder())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture
def part(world, tmp_path):
    """The same without its last class, and with two training pictures of each other one."""
    copied = shutil.copytree(world, tmp_path / "part" / "world")
    for split in ("train", "val", "test"):
        shutil.rmtree(copied / split / "sun")
    for name in ("apple", "fish", "leaf"):
        for number in (2, 3, 4):
            (copied / "train" / name / f"{number}.png").unlink()
    return copied


def rest(world, tmp_path):
    """The training pictures that ``part`` has not, by class."""
    for name in ("apple", "fish", "leaf"):
        for number in (2, 3, 4):
            place = tmp_path / "rest" / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(world / "train" / name / f"{number}.png", place)
    return tmp_path / "rest"


@pytest.mark.parametrize("name", METHODS)
def test_a_class_and_pictures_later_are_a_fit_on_all(name, world, part, tmp_path):
    more: dict[str, Any] = {"adapter": name, "settings": METHODS[name], "encoder": ColourEncoder(), **NOTHING_SEARCHED}
    whole = vlmadapt.fit(world, **more)
    before = vlmadapt.fit(part, out=tmp_path / "run", **more)
    grown = vlmadapt.add_class(tmp_path / "run", world / "train" / "sun", out=tmp_path / "class")
    grown = vlmadapt.add_pictures(tmp_path / "class", rest(world, tmp_path), out=tmp_path / "all")
    loaded = Classifier.load(tmp_path / "all")
    assert loaded.class_names == grown.class_names == whole.class_names and len(before.class_names) == 3
    rows = torch.nn.functional.normalize(torch.randn(9, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    torch.testing.assert_close(loaded.adapter.logits(rows), whole.adapter.logits(rows), rtol=1e-4, atol=1e-4)
    assert torch.equal(loaded.adapter.logits(rows), grown.adapter.logits(rows))
    assert sorted(loaded.run.contents) == sorted(whole.run.contents)
    assert "without a fit" in loaded.run.selection and loaded.run.selection.count("without a fit") == 1
    assert loaded.run.few_shot_split_hash != before.run.few_shot_split_hash


@pytest.mark.parametrize("protocol", ["few-val", "k-fold", "no-val"])
def test_votes_name_the_pictures_that_were_added(protocol, world, part, tmp_path):
    more: dict[str, Any] = {"adapter": "tip-adapter", "encoder": ColourEncoder(), "shots": 2}
    more |= {"protocol": protocol, "no_cache": True}
    before = vlmadapt.fit(part, **more)
    grown = vlmadapt.add_class(before, world / "train" / "sun")
    for number in range(5):
        picture = world / "train" / "sun" / f"{number}.png"
        (found,) = grown.predict([picture], votes=1)
        assert found.votes[0].class_name == "sun" and found.votes[0].support.path.resolve() == picture.resolve()
    old = before.support[0]
    (found,) = grown.predict([old.path], votes=1)
    assert found.votes[0].support.path.resolve() == old.path.resolve()
    assert len(grown.run.contents) == len(grown.support) == len(before.support) + 5
    assert {Path(each.name).parent.name for each in grown.support[-8:]} & {"sun"}


@pytest.fixture
def run(part, tmp_path):
    more: dict[str, Any] = {"adapter": "gda", "encoder": ColourEncoder(), **NOTHING_SEARCHED}
    vlmadapt.fit(part, out=tmp_path / "run", **more)
    return tmp_path / "run"


def test_what_cannot_be_added_is_one_sentence(run, world, part, tmp_path):
    with pytest.raises(InputError, match="name is 'apple', which is a class already"):
        vlmadapt.add_class(run, world / "train" / "sun", name="apple")
    with pytest.raises(InputError, match="pictures hold the class 'sun', which the classifier does not know"):
        vlmadapt.add_pictures(run, world / "train")
    with pytest.raises(InputError, match=r"0\.png is the picture train/apple/0\.png, which counts already"):
        vlmadapt.add_pictures(run, {"apple": [world / "train" / "apple" / "0.png"]})
    with pytest.raises(InputError, match="name is missing"):
        vlmadapt.add_class(run, [world / "train" / "sun" / "0.png"])
    with pytest.raises(FileError, match="is no folder with pictures"):
        vlmadapt.add_class(run, tmp_path / "nowhere")
    with pytest.raises(FileError, match="holds pictures: give a folder with one folder a class"):
        vlmadapt.add_pictures(run, world / "train" / "sun")


def test_methods_that_cannot_say_which_can(part, world, tmp_path):
    classifier = vlmadapt.fit(part, adapter="taskres", encoder=ColourEncoder(), settings={"epochs": 1}, shots=2)
    with pytest.raises(InputError, match="taskres cannot take a class or samples without a fit on all samples"):
        vlmadapt.add_class(classifier, world / "train" / "sun", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands(run, world, tmp_path):
    result = call("add-class", run, world / "train" / "sun")
    assert f"saved in {run}-more" in result.stdout and "4 classes, 11 training pictures" in result.stdout
    more = rest(world, tmp_path)
    result = call("add-pictures", f"{run}-more", more, "--out", tmp_path / "all")
    assert "4 classes, 20 training pictures" in result.stdout
    assert "pass --resume" in call("add-pictures", f"{run}-more", more, "--out", tmp_path / "all", code=2).stderr
    call("add-pictures", f"{run}-more", more, "--out", tmp_path / "all", "--overwrite")
