import os
import shutil

import pytest

from tests.data.pictures import make_classes, make_picture
from vlmadapt.data import read_folder
from vlmadapt.data.walk import list_images
from vlmadapt.errors import FileError, InputError


def relative(dataset, split):
    return {dataset.key(sample): dataset.class_names[sample.label] for sample in dataset.split(split)}


def test_split_folders(tmp_path):
    for split in ("train", "validation", "test"):
        make_classes(tmp_path / split, {"cat": 2, "dog": 3})
    dataset = read_folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert (dataset.counts("train"), dataset.counts("val"), dataset.counts("test")) == ([2, 3], [2, 3], [2, 3])
    assert relative(dataset, "val")["validation/dog/2.png"] == "dog"


def test_labels_agree_across_splits_when_a_class_is_missing_from_one(tmp_path):
    make_classes(tmp_path / "train", {"ant": 1, "cat": 1})
    make_classes(tmp_path / "val", {"cat": 1})
    make_classes(tmp_path / "test", {"bee": 1, "cat": 1})
    dataset = read_folder(tmp_path)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.counts("train") == [1, 0, 1]
    assert {dataset.class_names[sample.label] for sample in dataset.val} == {"cat"}


def test_without_a_validation_folder_train_gives_a_fifth(tmp_path):
    make_classes(tmp_path / "train", {"cat": 10, "dog": 2})
    make_classes(tmp_path / "test", {"cat": 1, "dog": 1})
    dataset = read_folder(tmp_path)
    assert (dataset.counts("train"), dataset.counts("val")) == ([8, 1], [2, 1])


def test_split_by_seed(tmp_path):
    make_classes(tmp_path, {"a": 10, "b": 3, "c": 2, "d": 1})
    dataset = read_folder(tmp_path, seed=1)
    assert dataset.counts("train") == [5, 1, 1, 1]
    assert dataset.counts("val") == [2, 1, 0, 0]
    assert dataset.counts("test") == [3, 1, 1, 0]
    everything = [dataset.key(sample) for split in ("train", "val", "test") for sample in dataset.split(split)]
    assert len(everything) == len(set(everything)) == 16
    assert read_folder(tmp_path, seed=1).split_hash == dataset.split_hash != read_folder(tmp_path, seed=2).split_hash


def test_split_does_not_depend_on_where_the_folder_lies(tmp_path):
    first = read_folder(make_classes(tmp_path / "one", {"a": 8, "b": 8}))
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "deeper")
    assert read_folder(tmp_path / "two" / "deeper").split_hash == first.split_hash


def test_fish_shark_unicode_and_underscores(tmp_path):
    make_classes(tmp_path, {"fish": 3, "shark": 3, "road_sign": 3, "Käse": 3, "猫": 3})
    dataset = read_folder(tmp_path)
    assert set(dataset.class_names) == {"fish", "shark", "road sign", "Käse", "猫"}
    assert sum(map(len, (dataset.train, dataset.val, dataset.test))) == 15


def test_decomposed_unicode_gives_the_composed_name(tmp_path):
    make_classes(tmp_path, {"Ka\u0308se": 3, "brot": 3})
    assert "K\u00e4se" in read_folder(tmp_path).class_names


def test_equal_file_names_in_different_folders_are_different_pictures(tmp_path):
    make_classes(tmp_path, {"a/x": 2, "a/y": 2, "b": 4})
    dataset = read_folder(tmp_path)
    paths = {sample.path for split in ("train", "val", "test") for sample in dataset.split(split)}
    assert len(paths) == 8


def test_hidden_and_other_files_are_ignored(tmp_path):
    make_classes(tmp_path, {"a": 3, "b": 3, ".hidden": 3})
    make_picture(tmp_path / "a" / ".thumbnail.png")
    make_picture(tmp_path / "a" / ".cache" / "x.png")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "README.md").write_text("no class")
    dataset = read_folder(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert len(list_images(tmp_path / "a")) == 3


def test_links_are_followed_and_loops_end(tmp_path):
    make_classes(tmp_path / "store", {"a": 3, "b": 3})
    root = tmp_path / "set"
    root.mkdir()
    os.symlink(tmp_path / "store" / "a", root / "a")
    (root / "b").mkdir()
    os.symlink(tmp_path / "store" / "b" / "0.png", root / "b" / "link.png")
    os.symlink(root / "b", root / "b" / "loop")
    os.symlink(tmp_path / "nowhere.png", root / "b" / "broken.png")
    assert [path.name for path in list_images(root / "b")] == ["broken.png", "link.png"]
    assert read_folder(root).class_names == ("a", "b")


@pytest.mark.parametrize("folder", ["train", "train/steam"])
def test_a_class_called_train_is_a_class(tmp_path, folder):
    make_classes(tmp_path, {folder: 3, "bus": 3})
    assert read_folder(tmp_path).class_names == ("bus", "train")


def test_upper_case_endings_count(tmp_path):
    make_classes(tmp_path, {"a": 3})
    for number in range(3):
        make_picture(tmp_path / "b" / f"{number}.JPG")
    assert sum(len(read_folder(tmp_path).split(split)) for split in ("train", "val", "test")) == 6


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda root: None, FileError, "is not a folder"),
        (lambda root: root.mkdir(), InputError, "holds no class folders"),
        (lambda root: make_classes(root, {"only": 3}), InputError, r"1 class\(es\) \['only'\]: a classifier needs"),
        (lambda root: make_classes(root, {"a": 3, "empty": 0}), InputError, "class folder .*empty holds no pictures"),
        (lambda root: make_classes(root, {"road_sign": 3, "road sign": 3}), InputError, "both give the class name"),
        (
            lambda root: [make_classes(root / split, {"a": 1, "b": 1}) for split in ("train", "val", "valid", "test")],
            InputError,
            "both name the val split",
        ),
    ],
)
def test_bad_folders(tmp_path, make, error, words):
    make(tmp_path / "set")
    with pytest.raises(error, match=words):
        read_folder(tmp_path / "set")
