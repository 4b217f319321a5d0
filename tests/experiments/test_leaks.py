"""The same picture in fit and test is told by content, wherever a result is made."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.experiments.world import COLOURS, ColourEncoder, make_world
from vlmadapt.classifier import Classifier, Run
from vlmadapt.data import Dataset, Extraction, load_dataset
from vlmadapt.data.names import class_name_of
from vlmadapt.errors import InputError
from vlmadapt.experiments import leaks
from vlmadapt.experiments.front import evaluate
from vlmadapt.experiments.protocol import run_protocol
from vlmadapt.experiments.single import fit_classifier
from vlmadapt.files import read_json, write_json
from vlmadapt.pictures import identify
from vlmadapt.provenance.settings import Method

QUIET = Extraction(progress=False)


def fit(dataset: Dataset, folder: Path | None = None) -> Classifier:
    method = Method("zero-shot", "zero-shot", {})
    return fit_classifier(ColourEncoder(), dataset, None, method, 2, 0, folder, QUIET)


def listing(path: Path, rows: list[tuple[str, str, str]]) -> Dataset:
    path.write_text("\n".join(["path,label,split", *(",".join(row) for row in rows)]))
    return load_dataset(path)


def rows_of(world: Path, split: str, as_split: str, count: int) -> list[tuple[str, str, str]]:
    return [(str(world / split / name / f"{i}.png"), name, as_split) for name in COLOURS for i in range(count)]


def swapped(world: Path, place: Path) -> Dataset:
    """Its test pictures are the training pictures of ``world``."""
    return listing(place / "swapped.csv", [*rows_of(world, "train", "test", 5), *rows_of(world, "test", "train", 2)])


def resave(world: Path, how: str) -> None:
    """Turn every training picture into another file of the same pixels."""
    for path in sorted((world / "train").rglob("*.png")):
        image = Image.open(path)
        image.load()
        if how == "renamed":
            path.rename(path.with_name(f"new{path.name}"))
            path.with_name(f"new{path.name}").rename(path)
        elif how == "compressed anew":
            image.save(path, compress_level=0)
        elif how == "BMP called png":
            image.save(path, format="BMP")
        elif how == "with alpha":
            image.convert("RGBA").save(path)
        elif how == "turned by EXIF":
            exif = image.getexif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


@pytest.mark.parametrize(
    "how", ["copied", "moved", "renamed", "compressed anew", "BMP called png", "with alpha", "turned by EXIF", "linked"]
)
def test_fitted_pictures_in_other_data_are_refused(tmp_path, how):
    world = make_world(tmp_path / "world")
    classifier = fit(load_dataset(world))
    other = tmp_path / "deep" / "other"
    (tmp_path / "deep").mkdir()
    if how == "moved":
        world.rename(other)
    elif how == "linked":
        os.symlink(world, other)
    else:
        shutil.copytree(world, other)
        resave(other, how)
    with pytest.raises(
        InputError, match=r"^8 test pictures were used to fit this classifier, of 20 \(.*deep.*\): eval"
    ):
        evaluate(classifier, swapped(other, tmp_path), no_cache=True)


def test_a_copy_of_the_data_is_evaluated_as_the_data(tmp_path):
    world = make_world(tmp_path / "world")
    classifier = fit(load_dataset(world))
    shutil.copytree(world, tmp_path / "copy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate(classifier, load_dataset(tmp_path / "copy"), no_cache=True).results.dataset["test"] == 16


def test_other_pixels_are_another_picture(tmp_path):
    world = make_world(tmp_path / "world")
    classifier = fit(load_dataset(world))
    for path in (world / "train").rglob("*.png"):
        pixels = np.array(Image.open(path))
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(path)
    assert evaluate(classifier, swapped(world, tmp_path), no_cache=True).results.dataset["test"] == 20


def coop(world: Path, file: Path, twice: str) -> Dataset:
    """A CoOp split whose first test picture of each class is a training picture: by path, by ``..``, or a copy."""
    content = {}
    for split in ("train", "val", "test"):
        names = list(COLOURS)
        content[split] = [
            [f"{split}/{name}/{i}.png", label, name] for label, name in enumerate(names) for i in range(3)
        ]
    for label, name in enumerate(COLOURS):
        place = {"path": "train/{}/0.png", "dots": "test/../train/{}/0.png", "copy": "test/{}/c.png"}[twice]
        path = place.format(name)
        if twice == "copy":
            shutil.copy(world / "train" / name / "0.png", world / path)
        content["test"][3 * label] = [path, label, name]
    write_json(file, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(file, root=world)


@pytest.mark.parametrize("twice", ["path", "dots", "copy"])
def test_a_picture_in_two_splits_of_the_data_is_warned_of(tmp_path, twice):
    dataset = coop(make_world(tmp_path / "world"), tmp_path / "split.json", twice)
    everything = fit_classifier(ColourEncoder(), dataset, None, Method("zero-shot", "zero-shot", {}), 3, 0, None, QUIET)
    with pytest.warns(UserWarning, match=r"^4 test pictures were used to fit: .*Run vlmadapt data check"):
        evaluate(everything, dataset, no_cache=True)
    with pytest.warns(UserWarning, match=r"^4 test pictures were used to fit: "):
        run_protocol(ColourEncoder(), dataset, ["zero-shot"], [3], [0], extraction=QUIET)


@pytest.mark.parametrize("twice", ["path", "dots"])
def test_a_path_in_two_splits_is_warned_of_at_loading(tmp_path, twice):
    dataset = coop(make_world(tmp_path / "world"), tmp_path / "split.json", twice)
    (doubt,) = dataset.doubts
    assert "is listed in train and test (4 such pictures)" in doubt
    with pytest.warns(UserWarning, match="is listed in train and test"):
        load_dataset(tmp_path / "split.json", root=tmp_path / "world")


def test_a_picture_in_training_and_validation_is_warned_of(tmp_path):
    world = make_world(tmp_path / "world", train=2)
    shutil.copy(world / "train" / "sun" / "0.png", world / "val" / "sun" / "0.png")
    dataset = load_dataset(world)
    with pytest.warns(UserWarning, match=r"^1 validation pictures are training pictures too: .*val/sun/0\.png is "):
        fit(dataset)
    with pytest.warns(UserWarning, match="validation pictures are training pictures too"):
        run_protocol(ColourEncoder(), dataset, ["zero-shot"], [2], [0], extraction=QUIET)


def test_clean_data_are_not_warned_of(tmp_path):
    dataset = load_dataset(make_world(tmp_path / "world"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(fit(dataset), dataset, no_cache=True)
        run_protocol(ColourEncoder(), dataset, ["zero-shot"], [1, 2], [0, 1], extraction=QUIET)


def test_a_run_knows_its_pictures_by_content(tmp_path):
    world = make_world(tmp_path / "world")
    fit(load_dataset(world), tmp_path / "run")
    run = Run.from_json(tmp_path / "run" / "run.json", read_json(tmp_path / "run" / "run.json"))
    pictures = [*run.support, *run.validation]
    assert run.contents == tuple(identify(world / name).keys for name, _ in pictures) and len(pictures) == 16


@pytest.mark.parametrize("there", [True, False])
def test_a_run_without_contents_is_compared_as_far_as_its_pictures_are_there(tmp_path, there):
    world = make_world(tmp_path / "world")
    classifier = fit(load_dataset(world))
    shutil.copytree(world, tmp_path / "other")
    old = Classifier(classifier.adapter, classifier.encoder, replace(classifier.run, contents=()))
    if not there:
        shutil.rmtree(world)
    other = swapped(tmp_path / "other", tmp_path)
    if there:
        with pytest.raises(InputError, match="8 test pictures"):
            evaluate(old, other, no_cache=True)
    else:
        evaluate(old, other, no_cache=True)


# What else an evaluation says of its data.


def numbered(place: Path) -> tuple[Dataset, Dataset]:
    """The same pictures with classes in different orders, and with names spelt in two ways."""
    world = make_world(place / "world")
    dataset = load_dataset(world)
    names = tuple(reversed([f"the_{name}" for name in dataset.class_names]))
    shown = replace(dataset, class_names=tuple(class_name_of(f"the {name}") for name in dataset.class_names))
    other = shown.with_classes(names)
    assert other is not None
    return shown, other


def test_classes_are_matched_by_name(tmp_path):
    dataset, other = numbered(tmp_path)
    classifier = fit(dataset)
    found, wanted = (evaluate(classifier, each, no_cache=True) for each in (other, dataset))
    assert found.by_class == wanted.by_class and wanted.accuracy > 0.5


def test_without_test_pictures_nothing_is_compared_or_evaluated(tmp_path):
    world = make_world(tmp_path / "world")
    shutil.rmtree(world / "test")
    with pytest.warns(UserWarning, match="has no test pictures: it can be fitted"):
        dataset = load_dataset(world)
    classifier = fit(dataset)
    encoder = ColourEncoder()
    with pytest.raises(InputError, match="has no test pictures"):
        run_protocol(encoder, dataset, ["zero-shot"], [2], [0], extraction=QUIET)
    assert encoder.pictures_encoded == 0
    with pytest.raises(InputError, match="has no test pictures"):
        evaluate(classifier, dataset, no_cache=True)


def test_classes_without_test_pictures_are_named(tmp_path):
    world = make_world(tmp_path / "world")
    shutil.rmtree(world / "test" / "sun")
    dataset = load_dataset(world)
    words = "^'sun' of 4 classes have no test pictures: the test accuracy is that of the others"
    with pytest.warns(UserWarning, match=words):
        evaluate(fit(dataset), dataset, no_cache=True)
    with pytest.warns(UserWarning, match=words):
        run_protocol(ColourEncoder(), dataset, ["zero-shot"], [2], [0], extraction=QUIET)


def test_many_classes_without_test_pictures_are_counted():
    names = tuple(f"class {number}" for number in range(9))
    sample = load_dataset("clipart").train[0]
    dataset = Dataset("many", names, ("{}",), (sample,), (), (sample,), Path("/"))
    with pytest.warns(UserWarning, match=r"and 5 more of 9 classes"):
        leaks.require_test(dataset)


def test_what_is_written_is_json(tmp_path):
    fit(load_dataset(make_world(tmp_path / "world")), tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())["contents"]
    assert all(len(file) == 64 and pixels.startswith("4x4:") for file, pixels in content)
