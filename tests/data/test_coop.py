import pytest

from tests.data.pictures import coop_file, make_picture
from vlmadapt.data import read_coop_split
from vlmadapt.errors import FileError, InputError


def rows(root, *entries):
    for path, _, _ in entries:
        make_picture(root / path)
    return entries


def test_label_gaps_and_classes_missing_from_train(tmp_path):
    images = tmp_path / "images"
    split = coop_file(
        tmp_path / "split_zhou_Zoo.json",
        train=rows(images, ("a/1.png", 3, "grey_cat"), ("b/1.png", 998, "dog")),
        val=rows(images, ("a/2.png", 3, "grey_cat")),
        test=rows(images, ("c/1.png", 40, "bee"), ("b/2.png", 998, "dog")),
    )
    dataset = read_coop_split(split, images)
    assert (dataset.name, dataset.class_names) == ("Zoo", ("grey cat", "bee", "dog"))
    assert (dataset.counts("train"), dataset.counts("test")) == ([1, 0, 1], [0, 1, 1])


def test_paths_count_from_the_split_file_and_val_may_be_absent(tmp_path):
    train = rows(tmp_path, *((f"{name}/{n}.png", label, name) for label, name in enumerate("ab") for n in range(5)))
    split = coop_file(tmp_path / "s.json", train=train, test=rows(tmp_path, ("a/9.png", 0, "a")))
    dataset = read_coop_split(split)
    assert (dataset.counts("train"), dataset.counts("val")) == ([4, 4], [1, 1])


def test_missing_pictures(tmp_path):
    split = coop_file(tmp_path / "s.json", train=[("x.png", 0, "a")], val=[], test=[("y.png", 1, "b")])
    with pytest.raises(FileError, match=r"lists 2 picture\(s\) that are not there, first .*x\.png"):
        read_coop_split(split)


@pytest.mark.parametrize(
    ("train", "error", "words"),
    [
        ([("x.png", 0, "a"), ("y.png", 0, "b")], InputError, "gives label 0 the names 'a' and 'b'"),
        ([("x.png", -1, "a")], FileError, r"at train\[0\]: an entry must be \[path, label from 0, class name\]"),
        ([("x.png", "0", "a")], FileError, r"at train\[0\]"),
        ([("x.png", True, "a")], FileError, r"at train\[0\]"),
        ([("x.png", 0)], FileError, r"at train\[0\]"),
    ],
)
def test_bad_entries(tmp_path, train, error, words):
    split = coop_file(tmp_path / "s.json", train=train, val=[], test=[("z.png", 1, "c")])
    with pytest.raises(error, match=words):
        read_coop_split(split, check_files=False)


@pytest.mark.parametrize("content", ["[]", '{"train": []}', '{"train": {}, "test": []}', "{"])
def test_other_json_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(FileError, match=r"s\.json is not"):
        read_coop_split(tmp_path / "s.json")
