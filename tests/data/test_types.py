from pathlib import Path
from typing import Any

import pytest

from vlmadapt.data import Dataset, Sample
from vlmadapt.data.types import relative_key
from vlmadapt.errors import InputError


def dataset(**changes):
    root = Path("/data")
    values: dict[str, Any] = {
        "name": "pets",
        "class_names": ("cat", "dog"),
        "templates": ("a photo of a {}.",),
        "train": (Sample(root / "a.png", 0), Sample(root / "b.png", 1)),
        "val": (),
        "test": (Sample(root / "c.png", 1),),
        "root": root,
    }
    return Dataset(**(values | changes))


def test_split_hash_is_pinned_and_ignores_order_and_place():
    first = dataset()
    assert first.split_hash == "3d0c91cfce13245da8d1d522da3501bee8b168cca5ee59eed9563730c0146ee8"
    moved = Path("/elsewhere")
    assert (
        dataset(
            root=moved,
            train=(Sample(moved / "b.png", 1), Sample(moved / "a.png", 0)),
            test=(Sample(moved / "c.png", 1),),
        ).split_hash
        == first.split_hash
    )


@pytest.mark.parametrize(
    ("path", "root", "key"),
    [
        ("/data/a/b.png", "/data", "a/b.png"),
        ("set/a.png", "set", "a.png"),
        ("a.png", ".", "a.png"),
        ("/other/a.png", "/data", "../other/a.png"),
        ("/database/a.png", "/data", "../database/a.png"),
        ("/data/Ka\u0308se.png", "/data", "K\u00e4se.png"),
    ],
)
def test_keys_are_relative_and_composed(path, root, key):
    assert relative_key(Path(path), Path(root)) == key


@pytest.mark.parametrize(
    "changes",
    [
        {"train": (Sample(Path("/data/a.png"), 1), Sample(Path("/data/b.png"), 1))},
        {"train": (Sample(Path("/data/a.png"), 0),)},
        {"val": (Sample(Path("/data/v.png"), 0),)},
        {"test": (Sample(Path("/data/d.png"), 1),)},
    ],
)
def test_split_hash_follows_every_change(changes):
    assert dataset(**changes).split_hash != dataset().split_hash


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ("cat",)}, "needs at least two"),
        ({"class_names": ("cat", " ")}, "empty name for class 1"),
        ({"templates": ("a photo",)}, "must contain {} once"),
        ({"templates": ()}, "no prompt templates"),
        ({"train": (), "test": ()}, "neither training nor test pictures"),
        ({"test": (Sample(Path("c.png"), 2),)}, r"c\.png has label 2, but data set 'pets' has labels 0 to 1"),
        ({"val": (Sample(Path("c.png"), -1),)}, "has label -1"),
    ],
)
def test_what_a_data_set_refuses(changes, words):
    with pytest.raises(InputError, match=words):
        dataset(**changes)


def test_unknown_split_is_refused():
    with pytest.raises(InputError, match="split is 'dev'"):
        dataset().split("dev")
