"""Data without splits, evaluated by a classifier of other pictures: all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.experiments.world import make_world
from tests.test_cli import call, fit_tip_f


def count_of(out: Path) -> int:
    return json.loads((out / "results.json").read_text())["dataset"]["test"]


@pytest.fixture
def outside(tmp_path):
    """40 pictures that no fit on the world has seen, in class folders alone."""
    shutil.copytree(make_world(tmp_path / "more", test=10) / "test", tmp_path / "outside")
    return tmp_path / "outside"


def as_table(folder: Path) -> Path:
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    (folder.parent / "outside.csv").write_text("path,label\n" + "\n".join(f"outside/{row}" for row in rows))
    return folder.parent / "outside.csv"


def as_training_folder(folder: Path) -> Path:
    shutil.copytree(folder, folder.parent / "only" / "train")
    return folder.parent / "only"


@pytest.mark.parametrize("form", [Path, as_table, as_training_folder])
def test_data_without_splits_are_evaluated_whole(form, outside, world, tmp_path):
    fit_tip_f(world, tmp_path / "run")
    result = call("eval", tmp_path / "run", form(outside), "--out", tmp_path / "out")
    assert count_of(tmp_path / "out") == 40
    assert "4 classes, 40 pictures without splits, all evaluated" in result.stderr


def test_a_list_of_test_pictures_alone_is_evaluated_and_nothing_is_fitted_on_it(outside, world, tmp_path):
    table = as_table(outside)
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{head},split", *(f"{row},test" for row in rows)]))
    fit_tip_f(world, tmp_path / "run")
    call("eval", tmp_path / "run", table, "--out", tmp_path / "out")
    assert count_of(tmp_path / "out") == 40
    refused = call("fit", table, "--shots", 1, "--out", tmp_path / "other", code=2)
    assert "has no training pictures" in refused.stderr


def test_the_test_split_of_others_is_theirs(world, tmp_path):
    fit_tip_f(world, tmp_path / "run")
    other = make_world(tmp_path / "more", test=14)
    shutil.rmtree(other / "train")
    shutil.rmtree(other / "val")
    for path in sorted(other.glob("test/*/1[0-3].png")):  # seen by no fit either
        place = other / "train" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    call("eval", tmp_path / "run", other, "--out", tmp_path / "out")
    assert count_of(tmp_path / "out") == 40


def test_data_that_hold_a_picture_of_the_fit_keep_their_test_split(outside, tmp_path):
    fit_tip_f(outside, tmp_path / "run")
    shutil.copytree(outside, tmp_path / "copied" / "outside")
    for data in (outside, tmp_path / "copied" / "outside"):
        result = call("eval", tmp_path / "run", data, "--out", tmp_path / f"out-{data.parent.name}")
        assert count_of(tmp_path / f"out-{data.parent.name}") == 12
        assert "12 test pictures" in result.stderr
