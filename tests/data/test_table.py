import json

import pytest

from tests.data.pictures import make_picture
from vlmadapt.data import read_table
from vlmadapt.errors import FileError, InputError


def pictures(root, count):
    return [make_picture(root / "img" / f"{number}.png").relative_to(root).as_posix() for number in range(count)]


def write_csv(root, rows, header="path,label,split"):
    (root / "list.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
    return root / "list.csv"


def test_csv_with_splits(tmp_path):
    paths = pictures(tmp_path, 6)
    rows = [
        f"{path},{'red fish' if n % 2 else '鯨'},{split}"
        for n, (path, split) in enumerate(
            zip(paths, ["train", "train", "valid", "Validation", "test", "test"], strict=True)
        )
    ]
    dataset = read_table(write_csv(tmp_path, rows))
    assert dataset.class_names == ("red fish", "鯨")
    assert (dataset.counts("train"), dataset.counts("val"), dataset.counts("test")) == ([1, 1], [1, 1], [1, 1])
    assert dataset.key(dataset.train[0]) == "img/0.png"


def test_csv_without_splits_is_split_by_seed(tmp_path):
    rows = [f"{path},{'ab'[number % 2]}" for number, path in enumerate(pictures(tmp_path, 12))]
    dataset = read_table(write_csv(tmp_path, rows, "Path, Label"), seed=3)
    assert (dataset.counts("train"), dataset.counts("val"), dataset.counts("test")) == ([3, 3], [1, 1], [2, 2])


def test_whole_numbers_sort_as_numbers(tmp_path):
    rows = [f"{path},{[10, 9, 100][number % 3]}" for number, path in enumerate(pictures(tmp_path, 9))]
    assert read_table(write_csv(tmp_path, rows, "path,label")).class_names == ("9", "10", "100")


def test_jsonl(tmp_path):
    lines = [
        json.dumps({"path": path, "label": "xy"[number % 2], "split": ["train", "test"][number // 4]})
        for number, path in enumerate(pictures(tmp_path, 8))
    ]
    (tmp_path / "list.jsonl").write_text("\n".join([*lines, ""]))
    dataset = read_table(tmp_path / "list.jsonl")
    assert (dataset.counts("train"), dataset.counts("val"), dataset.counts("test")) == ([1, 1], [1, 1], [2, 2])


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (["img/0.png,a"], "file,label", r"has columns \['file', 'label'\], but none called path: name them so"),
        ([], "path,label", "lists no pictures"),
        (["img/0.png,"], "path,label", "line 2 has label ''"),
        (["img/0.png"], "path,label", "line 2 has label None"),
        ([",a"], "path,label", "line 2 has no path"),
        (["img/0.png,a,later"], "path,label,split", "line 2 has split 'later'"),
        (["img/0.png,a,train", "img/1.png,b,"], "path,label,split", "line 3 has no split"),
        (["img/0.png,a,train", "img/1.png,b,train"], "path,label,split", "no rows with split test"),
        (["img/0.png,a", "img/0.png,b"], "path,label", "on lines 2 and 3"),
        (["img/0.png,a", "img/1.png,a"], "path,label", "a classifier needs at least two"),
    ],
)
def test_bad_rows(tmp_path, rows, header, words):
    pictures(tmp_path, 2)
    with pytest.raises(InputError, match=words):
        read_table(write_csv(tmp_path, rows, header))


def test_listed_pictures_must_exist(tmp_path):
    table = write_csv(tmp_path, ["gone1.png,a", "gone2.png,b"], "path,label")
    with pytest.raises(FileError, match=r"lists 2 picture\(s\) that are not there, first .*gone"):
        read_table(table)
    assert len(read_table(table, check_files=False).train) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"path": ', "is not valid JSON: .* at line 1"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[1]", "line 1 is not a JSON object"),
    ],
)
def test_bad_jsonl(tmp_path, content, words):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises((FileError, InputError), match=words):
        read_table(tmp_path / "x.jsonl")


def test_csv_in_another_encoding_is_named(tmp_path):
    (tmp_path / "x.csv").write_bytes("path,label\na.png,Käse\n".encode("latin-1"))
    with pytest.raises(FileError, match=r"x\.csv is not UTF-8"):
        read_table(tmp_path / "x.csv")
