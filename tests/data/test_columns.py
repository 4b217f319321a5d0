"""Listings whose columns have names of their own."""

import json

import pytest

from tests.data.pictures import make_classes
from vlmadapt.classifier import DataSource
from vlmadapt.data import Columns, check_dataset, load_dataset, read_table
from vlmadapt.errors import InputError

OWN = Columns("Image File", "spécies", "Fold")


@pytest.fixture
def table(tmp_path):
    make_classes(tmp_path, {"a": 4, "b": 4})
    rows = [f"{name}/{i}.png,{name},{'train' if i < 2 else 'test'},x" for name in "ab" for i in range(4)]
    (tmp_path / "own.csv").write_text("\n".join(["image file, SPÉCIES ,fold,label", *rows]), encoding="utf-8")
    return tmp_path / "own.csv"


def test_columns_are_read_by_the_names_that_are_given(table):
    dataset = load_dataset(table, columns=OWN)
    assert dataset.class_names == ("a", "b") and not dataset.seeded
    assert (dataset.counts("train"), dataset.counts("test")) == ([1, 1], [2, 2])
    lines = [json.dumps({"image file": f"{name}/0.png", "Spécies": name}) for name in "ab"]
    lines += [json.dumps({"Image File": f"{name}/1.png", "spécies": name}) for name in "ab"]
    (table.parent / "own.jsonl").write_text("\n".join(lines))
    assert load_dataset(table.parent / "own.jsonl", columns=OWN._replace(split="split")).seeded


def test_a_fit_finds_its_columns_again(table):
    source = DataSource.of(str(table), 0, None, columns=OWN)
    assert source.load().split_hash == load_dataset(table, columns=OWN).split_hash


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (Columns(), r"none called path: name them so .* \(--path-column, --label-column\)"),
        (
            Columns("file", "species"),
            r"'fold', 'label'\], .* called file and species",
        ),
        (
            Columns("image file", "spécies", "part"),
            r"has no column 'part' with splits: leave it out \(--split-column\)",
        ),
        (Columns("", "spécies"), r"path_column is '': name a column .* \(--path-column\)"),
        (Columns("image file", "Image File"), "path_column is 'image file': name a column that no other one is"),
    ],
)
def test_columns_that_are_not_there_are_named(table, columns, words):
    with pytest.raises(InputError, match=words):
        read_table(table, columns=columns)
    assert len(check_dataset(table, columns=columns).problems) == 1


def test_what_has_no_columns_refuses_them(tmp_path):
    make_classes(tmp_path / "pets", {"a": 4, "b": 4})
    with pytest.raises(InputError, match="is no listing with columns: leave their names out"):
        load_dataset(tmp_path / "pets", columns=OWN)
