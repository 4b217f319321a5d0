"""What one bad picture costs a prediction of many: itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.experiments.world import ColourEncoder, make_world
from tests.test_cli import call, fit_once
from vlmadapt.classifier import Classifier
from vlmadapt.cli import app
from vlmadapt.data import Extraction
from vlmadapt.errors import InputError
from vlmadapt.experiments import predict
from vlmadapt.experiments.predict import Failure, predict_each
from vlmadapt.provenance.intervals import wilson


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit_once(make_world(tmp_path_factory.mktemp("data") / "world"), tmp_path_factory)


def truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])


BAD = {
    "truncated": truncated,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("not a picture"),
    "missing": lambda path: None,
    "leads nowhere": lambda path: path.symlink_to(path.with_name("gone.png")),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n."),
}


@pytest.fixture
def good(tmp_path, world):
    """Twelve good pictures."""
    paths = []
    for number, source in enumerate(sorted((world / "test").glob("*/*.png"))[:12]):
        paths.append(tmp_path / f"{number:02}.png")
        shutil.copy(source, paths[-1])
    return paths


@pytest.mark.parametrize("at", [0, 5, 12])
@pytest.mark.parametrize("kind", BAD)
def test_one_bad_picture_of_thirteen_costs_itself(kind, at, run, good, tmp_path):
    bad = tmp_path / "bad.png"
    BAD[kind](bad)
    expected = json.loads(call("predict", run, *good, "--json").stdout)
    paths = [*good[:at], bad, *good[at:]]

    result = call("predict", run, *paths, code=1)
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(path) for path in good]
    assert str(bad) in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1

    result = call("predict", run, *paths, "--json", code=1)
    found = json.loads(result.stdout)
    assert [item["picture"] for item in found] == [str(path) for path in paths]
    failed = found.pop(at)
    assert failed["classes"] == [] and str(bad) in failed["error"]
    assert found == expected
    assert len(result.stderr.splitlines()) == 1 and str(bad) in result.stderr


def test_all_bad_pictures_are_an_error(run, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.touch()
    result = call("predict", run, *paths, code=2)
    assert result.stdout == "" and [
        str(path) in line for path, line in zip(paths, result.stderr.splitlines(), strict=True)
    ]
    assert [item["classes"] for item in json.loads(call("predict", run, *paths, "--json", code=2).stdout)] == [
        [],
        [],
        [],
    ]


def test_a_folder_with_a_bad_picture_is_predicted_too(run, good, tmp_path):
    (tmp_path / "bad.png").touch()
    assert len(call("predict", run, tmp_path, "--explain", code=1).stdout.split("share of vote")) == 13


def test_a_picture_without_a_direction_costs_itself(run, good, monkeypatch):
    """The encoder, not the reader, finds this one."""
    encode = ColourEncoder.encode_images

    def vanishing(encoder, pixels, normalize=True):
        features = encode(encoder, pixels, normalize)
        darkest = pixels.flatten(1).mean(1) < 0.2
        return features * ~darkest[:, None]

    monkeypatch.setattr(ColourEncoder, "encode_images", vanishing)
    Image.new("RGB", (4, 4)).save(good[3])
    result = call("predict", run, *good, code=1)
    assert len(result.stdout.splitlines()) == 11 and str(good[3]) in result.stderr


def test_chunks_keep_the_order(run, good, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "AT_ONCE", 5)
    for path in (good[1], good[5], good[6], good[11]):
        path.write_bytes(b"")
    found = list(predict_each(Classifier.load(run), good, Extraction(progress=False)))
    assert [one.path for one in found] == good
    assert [number for number, one in enumerate(found) if isinstance(one, Failure)] == [1, 5, 6, 11]


def test_what_is_no_picture_s_fault_is_raised(run, good, monkeypatch):
    call("predict", run, *good)
    quiet = Extraction(progress=False)
    with pytest.raises(InputError, match="top is 0"):
        list(predict_each(Classifier.load(run), good, quiet, top=0))
    with pytest.raises(InputError, match="batch_size"):
        list(predict_each(Classifier.load(run), good, Extraction(batch_size=0, progress=False)))


def test_no_picture_is_drawn_of_a_bad_one(run, tmp_path):
    bad = tmp_path / "bad.png"
    bad.touch()
    result = CliRunner().invoke(app, ["predict", str(run), str(bad), "--explain-picture", str(tmp_path / "why.png")])
    assert result.exit_code == 2 and "drawn" not in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


def test_what_a_folder_holds_besides_is_said(run, good):
    folder = good[0].parent
    (folder / "scan.psd").write_bytes(b"8BPS")
    (folder / "__MACOSX").mkdir()
    shutil.copy(good[0], folder / "__MACOSX" / "a.png")
    result = call("predict", run, folder, "--json")
    assert len(json.loads(result.stdout)) == len(good)
    assert "of formats that are not read left out (1 .psd)" in result.stderr
    assert "1 folder (" in result.stderr and "of thumbnails or system files left out" in result.stderr


def test_unsure_pictures_are_of_none_of_the_classes(run, good):
    plain = json.loads(call("predict", run, *good, "--json").stdout)
    least = Classifier.load(run, ColourEncoder()).adapter.least_certainty(0.5)
    asked = json.loads(call("predict", run, *good, "--json", "--abstain", 0.5).stdout)
    assert [each["abstained"] for each in plain] == [False] * len(good)
    assert [each["abstained"] for each in asked] == [each["classes"][0]["probability"] < least for each in asked]
    assert [each["classes"] for each in asked] == [each["classes"] for each in plain]
    assert any(each["abstained"] for each in asked)
    lines = call("predict", run, *good, "--abstain", 0.5).stdout.splitlines()
    assert sum("none of the classes, most like " in line for line in lines) == sum(e["abstained"] for e in asked)
    assert "abstain is 2" in call("predict", run, good[0], "--abstain", 2, code=2).stderr


def test_evaluation_counts_what_was_not_answered(run, tmp_path):
    result = call("eval", run, "--abstain", 0.5, "--out", tmp_path / "out")
    cell = json.loads((tmp_path / "out" / "results.json").read_text())["cells"][0]
    assert 0 < cell["test_abstained"] < 1 and 0 <= cell["test_answered_accuracy"] <= 1
    assert {"test_accuracy", "test_calibration_error", "test_nll", "test_brier"} < set(cell)
    answered = round(16 * (1 - cell["test_abstained"]))
    assert (
        f"{100 * cell['test_answered_accuracy']:.1f} {wilson(cell['test_answered_accuracy'], answered)}"
        in result.output
    )


def test_a_drawing_replaces_drawings_only(run, good, tmp_path):
    drawing = tmp_path / "why.png"
    for _ in range(2):
        call("predict", run, good[0], "--explain-picture", drawing)
    before = good[0].read_bytes()
    for other in (good[0], run / "run.json", tmp_path / "why.txt"):
        result = call("predict", run, good[0], "--explain-picture", other, code=2)
        assert "was not drawn by vlmadapt" in result.stderr or "name a .png file" in result.stderr
    assert good[0].read_bytes() == before and Classifier.load(run, ColourEncoder())
    (tmp_path / "folder.png").mkdir()
    refused = call("predict", run, good[0], "--explain-picture", tmp_path / "folder.png", code=2)
    assert "name a file to write with --explain-picture." in refused.stderr
