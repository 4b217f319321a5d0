"""``eval`` on pictures as people have them: any folder, list or tree of the classes, and what it writes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.experiments.world import make_world
from tests.test_cli import call, fit_once, fit_tip_f
from vlmadapt.experiments import evaluation
from vlmadapt.experiments.folders import EVALUATED

CLASSES = ("apple", "fish", "leaf", "sun")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def read(folder: Path) -> dict[str, Any]:
    return {path.stem: rows_of(path) for path in folder.glob("*.csv")}


@pytest.fixture(scope="session")
def run(world, tmp_path_factory):
    """A classifier of the world, for tests that only read it."""
    return fit_once(world, tmp_path_factory)


@pytest.fixture
def outside(tmp_path):
    """40 pictures that no fit on the world has seen, in class folders alone."""
    shutil.copytree(make_world(tmp_path / "more", test=10) / "test", tmp_path / "outside")
    return tmp_path / "outside"


def test_every_file_tells_the_same_pictures(run, outside, tmp_path):
    result = call("eval", run, outside, "--out", tmp_path / "out", "--abstain", 0.2)
    drawn = {"reliability.png", "confusion.png"}
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {*EVALUATED, *drawn, "report.html"}
    assert f"report: {tmp_path / 'out' / 'report.html'}" in result.output
    assert all(Image.open(tmp_path / "out" / name).format == "PNG" for name in drawn)
    found = read(tmp_path / "out")
    predictions = found["predictions"]
    assert len(predictions) == 40 and predictions[0]["path"].startswith("apple/")
    for row in predictions:
        chances = {name: float(row[f"probability of {name}"]) for name in CLASSES}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
        assert row["prediction"] == max(chances, key=chances.__getitem__)
        assert float(row["probability"]) == max(chances.values())
        assert row["right"] == ("yes" if row["prediction"] == row["label"] else "no")
    wrong = [row for row in predictions if row["right"] == "no"]
    assert 0 < len(wrong) == len(found["mistakes"])
    assert [row["path"] for row in found["mistakes"]] == [
        row["path"] for row in sorted(wrong, key=lambda row: -float(row["probability"]))
    ]
    support = {name for name, _ in json.loads((run / "run.json").read_text())["support"]}
    assert {row[f"support_{i}"] for row in found["mistakes"] for i in range(1, 6)} <= support
    for row in found["confusion"]:
        for name in CLASSES:
            pairs = [each for each in predictions if (each["label"], each["prediction"]) == (row["label"], name)]
            assert int(row[name]) == len(pairs)
    measures = {row["measure"]: row for row in found["measures"]}
    value = json.loads((tmp_path / "out" / "results.json").read_text())["cells"][0]
    for name, row in measures.items():
        assert float(row["value"]) == value[f"test_{name}"]
        assert float(row["low"]) <= float(row["high"])
    assert "top5_accuracy" not in measures  # of four classes
    assert float(measures["accuracy"]["value"]) == 1 - len(wrong) / 40
    f1 = [float(row["f1"]) for row in found["by_class"]]
    assert float(measures["macro_f1"]["value"]) == pytest.approx(sum(f1) / 4)
    shares = sum(row["abstained"] == "yes" for row in predictions) / 40
    assert float(measures["abstained"]["value"]) == pytest.approx(shares)
    assert f"{len(wrong)} mistakes, those it was most certain of:" in result.output


def test_without_a_mistake_that_is_said(run, outside, tmp_path):
    call("eval", run, outside, "--out", tmp_path / "first")
    for row in read(tmp_path / "first")["mistakes"]:
        (outside / row["path"]).unlink()
    result = call("eval", run, outside, "--out", tmp_path / "out")
    number = len(read(tmp_path / "out")["predictions"])
    assert f"no mistake: all {number} pictures are classified rightly" in result.output
    assert "hardest" not in result.output
    found = read(tmp_path / "out")
    macro = next(row for row in found["measures"] if row["measure"] == "macro_f1")
    assert (macro["value"], macro["low"], macro["high"]) == ("1.0", "", "")
    assert found["mistakes"] == []
    assert (tmp_path / "out" / "confusion.png").is_file()


def test_one_class_is_enough(run, outside, tmp_path):
    (tmp_path / "one").mkdir()
    (outside / "sun").rename(tmp_path / "one" / "sun")
    result = call("eval", run, tmp_path / "one", "--out", tmp_path / "out")
    assert "one: 1 class, 10 pictures without splits, all evaluated" in result.stderr
    found = read(tmp_path / "out")
    assert [row["test_pictures"] for row in found["by_class"]] == ["0", "0", "0", "10"]
    assert found["by_class"][0]["accuracy"] == "" and len(found["predictions"]) == 10
    table = tmp_path / "one.csv"
    table.write_text("path,label\n" + "\n".join(f"one/sun/{i}.png,sun" for i in range(4)) + "\n")
    assert "1 class, 4 pictures" in call("eval", run, table, "--out", tmp_path / "listed").stderr


def test_domains_above_the_classes_are_told_apart(run, outside, tmp_path):
    tree = tmp_path / "tree"
    for name, domain in (("apple", "day/cam, 1"), ("sun", "day/cam, 1"), ("sun", "nacht"), ("leaf", "nacht")):
        shutil.copytree(outside / name, tree / domain / name)
    result = call("eval", run, tree, "--out", tmp_path / "out")
    assert "tree: 3 classes, 40 pictures in 2 folders above the classes" in result.stderr
    domains = read(tmp_path / "out")["by_domain"]
    assert [(row["domain"], row["test_pictures"]) for row in domains] == [("day/cam, 1", "20"), ("nacht", "20")]
    assert "day/cam, 1" in result.output
    overall = json.loads((tmp_path / "out" / "results.json").read_text())["cells"][0]["test_accuracy"]
    assert sum(float(row["accuracy"]) for row in domains) / 2 == pytest.approx(overall)
    # Other data in the same folder, which have no domains: none stay behind.
    call("eval", run, outside, "--out", tmp_path / "out", "--overwrite")
    assert not (tmp_path / "out" / "by_domain.csv").exists()


def test_of_folders_called_after_splits_the_test_split_is_taken(run, outside, tmp_path):
    for split, name in (("val", "sun"), ("val", "leaf"), ("test", "apple"), ("test", "fish")):
        (tmp_path / "split" / split).mkdir(parents=True, exist_ok=True)
        (outside / name).rename(tmp_path / "split" / split / name)
    result = call("eval", run, tmp_path / "split", "--out", tmp_path / "out")
    assert "beside the test split left out" in result.stderr
    assert {row["label"] for row in read(tmp_path / "out")["predictions"]} == {"apple", "fish"}
    assert not (tmp_path / "out" / "by_domain.csv").exists()


def test_the_domain_of_the_fit_gives_its_test_split(tmp_path):
    for number, domain in enumerate(("photo", "sketch")):
        world = make_world(tmp_path / f"made{number}", test=10 + 10 * number)
        shutil.copytree(world / "test", tmp_path / "domains" / domain)
    for name in CLASSES:  # the noise of the first ten is that of the other domain
        for i in range(10):
            (tmp_path / "domains" / "sketch" / name / f"{i}.png").unlink()
    fit_tip_f(tmp_path / "domains", tmp_path / "run", "--domain", "photo")
    result = call("eval", tmp_path / "run", tmp_path / "domains", "--out", tmp_path / "out")
    assert "photo: 4 classes, 12 test pictures, those drawn by seed for testing" in result.stderr
    assert "sketch: 4 classes, 40 pictures without splits, all evaluated" in result.stderr


def test_unknown_classes_are_named_or_left_out_and_counted(run, outside, tmp_path):
    (outside / "sun").rename(outside / "Sun")
    (outside / "leaf").rename(outside / 'a, "b"')
    message = call("eval", run, outside, "--out", tmp_path / "out", code=2).stderr.splitlines()[-1]
    assert "does not know (Sun, a, \"b\"; 20 of 40 pictures): 'Sun' may be its 'sun'; " in message
    assert "--skip-unknown" in message and not (tmp_path / "out").exists()
    result = call("eval", run, outside, "--skip-unknown", "--out", tmp_path / "out")
    assert "20 pictures of 2 classes that the classifier does not know left out" in result.stderr
    value = json.loads((tmp_path / "out" / "results.json").read_text())
    assert value["dataset"]["left_out"] == {"Sun": 10, 'a, "b"': 10} and value["dataset"]["test"] == 20
    for name in ("apple", "fish"):
        shutil.rmtree(outside / name)
    message = call("eval", run, outside, "--skip-unknown", "--out", tmp_path / "none", code=2).stderr.splitlines()[-1]
    assert "no picture of a class that the classifier knows (apple, fish, leaf, sun)" in message


@pytest.mark.parametrize("place", ["night/moon", "night/cam/moon", "moon"])
def test_pictures_beside_the_domains_are_never_lost_without_a_word(place, run, outside, tmp_path):
    tree = tmp_path / "tree"
    for name in ("apple", "fish"):
        (tree / "day").mkdir(parents=True, exist_ok=True)
        (outside / name).rename(tree / "day" / name)
    (tree / place).parent.mkdir(parents=True, exist_ok=True)
    (outside / "leaf").rename(tree / place)
    shutil.copy(outside / "sun" / "0.png", tree / "loose.png")
    named = place.split("/")[min(1, place.count("/"))]
    message = call("eval", run, tree, "--out", tmp_path / "out", code=2).stderr.splitlines()[-1]
    assert f"does not know ({named}; 10 " in message and "--skip-unknown" in message
    result = call("eval", run, tree, "--skip-unknown", "--out", tmp_path / "out")
    assert "10 pictures of 1 class that the classifier does not know left out" in result.stderr
    assert "1 picture" in result.stderr and "loose.png" in result.stderr
    value = json.loads((tmp_path / "out" / "results.json").read_text())
    assert value["dataset"]["left_out"] == {named: 10} and value["dataset"]["test"] == 20


def test_names_of_any_kind_come_back_whole(tmp_path):
    names = {"apple": "-apple", "fish": 'fish, "b"', "leaf": "leaf con", "sun": "Käse <sun>"}
    world, more = make_world(tmp_path / "world"), make_world(tmp_path / "more", test=10)
    for root in (world, more):
        for split in ("train", "val", "test"):
            for name, other in names.items():
                (root / split / name).rename(root / split / other)
    shutil.copytree(more / "test", tmp_path / "new ones")
    (tmp_path / "new ones" / "leaf con" / "0.png").rename(tmp_path / "new ones" / "leaf con" / '-0, "é"\n.PNG')
    fit_tip_f(world, tmp_path / "run")
    result = call("eval", tmp_path / "run", tmp_path / "new ones", "--out", tmp_path / "out")
    assert "Traceback" not in result.output
    found = read(tmp_path / "out")
    assert {row["label"] for row in found["predictions"]} == set(names.values())
    assert 'leaf con/-0, "é"\n.PNG' in {row["path"] for row in found["predictions"]}


def test_a_broken_picture_is_named_before_anything_is_written(run, outside, tmp_path):
    (outside / "sun" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    message = call("eval", run, outside, "--out", tmp_path / "out", code=2).stderr.splitlines()[-1]
    assert str(outside / "sun" / "3.png") in message and not (tmp_path / "out").exists()


def test_another_evaluation_or_a_strangers_file_is_not_replaced_unaware(run, outside, tmp_path):
    call("eval", run, outside, "--out", tmp_path / "out")
    (outside / "sun" / "3.png").unlink()
    assert "other pictures or splits" in call("eval", run, outside, "--out", tmp_path / "out", code=2).stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "predictions.csv").write_text("mine")
    message = call("eval", run, outside, "--out", tmp_path / "mine", code=2).stderr
    assert "predictions.csv that no run wrote" in message


def test_of_very_many_probabilities_the_largest_are_written(run, outside, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_NUMBERS", 100)
    monkeypatch.setattr(evaluation, "FEW", 2)
    call("eval", run, outside, "--out", tmp_path / "out")
    for row in read(tmp_path / "out")["predictions"]:
        written = [row[f"probability of {name}"] for name in CLASSES if row[f"probability of {name}"]]
        assert len(written) == 2 and row["probability"] in written


def test_methods_without_a_cache_name_no_votes(world, outside, tmp_path):
    call("fit", world, "--adapter", "ncm", "--shots", 2, "--out", tmp_path / "run")
    call("eval", tmp_path / "run", outside, "--out", tmp_path / "out")
    mistakes = read(tmp_path / "out")["mistakes"]
    assert mistakes and all(row["support_1"] == "" for row in mistakes)


def test_the_report_can_be_left_out_or_be_without_pictures(run, outside, tmp_path):
    call("eval", run, outside, "--out", tmp_path / "out")
    assert "<symbol" in (tmp_path / "out" / "report.html").read_text()
    call("eval", run, outside, "--out", tmp_path / "out", "--no-pictures")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<symbol" not in page and "data-facets" in page
    result = call("eval", run, outside, "--out", tmp_path / "out", "--no-report")
    assert "report:" not in result.output and not (tmp_path / "out" / "report.html").exists()
