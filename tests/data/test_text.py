"""Text files as people's programs write them: encodings, separators, quotes, repeated keys, odd labels and paths."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from tests.data.pictures import coop_file, make_classes, make_picture
from vlmadapt.data import check_dataset, load_dataset, read_coop_split, read_table
from vlmadapt.errors import FileError, InputError
from vlmadapt.files import read_json, read_text

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
ROWS = [(f"{name}/{number}.png", name) for name in ("Käse", "猫") for number in range(4)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_classes(tmp_path, {"Käse": 4, "猫": 4})


def table(root: Path, text: str, encoding: str = "utf-8", name: str = "list.csv"):
    (root / name).write_bytes(text.encode(encoding))
    return read_table(root / name)


def csv_text(separator: str = ",", header: str = "path,label", end: str = "\n") -> str:
    lines = [header.replace(",", separator), *(separator.join(row) for row in ROWS)]
    return end.join([*lines, ""])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_unicode_encoding_is_read(root, encoding):
    for name, text in {
        "list.csv": csv_text(),
        "list.jsonl": "\n".join(json.dumps({"path": p, "label": n}, ensure_ascii=False) for p, n in ROWS),
    }.items():
        assert table(root, text, encoding, name).class_names == ("Käse", "猫")
    entries = [[path, int(name == "猫"), name] for path, name in ROWS]
    split = {"train": entries[1:7], "test": [entries[0], entries[7]]}
    (root / "s.json").write_bytes(json.dumps(split, ensure_ascii=False).encode(encoding))
    assert read_coop_split(root / "s.json").class_names == ("Käse", "猫")


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl", "s.json"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "utf-16-le cut", "nul"])
def test_other_encodings_are_one_sentence(root, name, encoding):
    content = {
        "utf-16-le cut": b"\xff\xfe" + csv_text().encode("utf-16-le")[:-1],
        "nul": csv_text().encode() + b"a\0b,c\n",
    }.get(encoding) or '{"path": "Käse/1.png",\n"label": "Käse"}'.encode(encoding)
    (root / name).write_bytes(content)
    with pytest.raises(FileError, match=rf"^{root / name} is not UTF-8 text \(.*\): save it as UTF-8\.$"):
        load_dataset(root / name)
    (problem,) = check_dataset(root / name, progress=False).problems
    assert "is not UTF-8 text" in problem


def test_where_the_text_stops_is_said(tmp_path):
    (tmp_path / "a.json").write_bytes(b'["K\xe4se"]')
    with pytest.raises(FileError, match="byte 0xe4 at position 3, read as utf-8"):
        read_json(tmp_path / "a.json")
    assert read_text(coop_file(tmp_path / "b.json", train=[])) == '{"train": []}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"train": [], "test": [], "train": []}', "an object gives 'train' twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"train": [\n1,,]}', "at line 2"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_none_is_one_sentence(tmp_path, text, words):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(FileError, match=rf"s\.json is not valid JSON: .*{words}"):
        load_dataset(tmp_path / "s.json")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ,", "; "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("header", ["path,label", "PATH,Label", '"path","label"', " Path , LABEL "])
def test_separators_line_ends_and_headers(root, separator, end, header):
    dataset = table(root, csv_text(separator, header, end))
    assert dataset.class_names == ("Käse", "猫") and len(dataset.train) == 4


def test_tab_separated_files_have_their_ending(root):
    (root / "list.tsv").write_text(csv_text("\t"))
    assert load_dataset(root / "list.tsv").class_names == ("Käse", "猫")


def test_quoted_fields_may_hold_anything(tmp_path):
    for number in range(8):
        make_picture(tmp_path / "a, b" / f"{number}.png")
    lines = [f'"a, b/{number}.png","{label}"' for number, label in enumerate(["red;\nfish", 'a ""cat""'] * 4)]
    dataset = table(tmp_path, "\n".join(["path,label", *lines]))
    assert dataset.class_names == ('a "cat"', "red; fish")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,label", "0.png,red, fish"], "line 2 has 3 fields, its first line 2: put text .* in double quotes"),
        (["path,label,label", "0.png,a,b"], "names the column label twice"),
        (["path,label", "0.png,nan"], "line 2 has label 'nan'"),
        (["path,label", "0.png,NaN"], "line 2 has label 'NaN'"),
        (["path,label", '"0.png,cat', "1.png,dog"], "has label None"),
        (["path label", "0.png cat"], r"has columns \['path label'\]"),
        (
            ["path,label", "0.png,road_sign", "1.png,road sign"],
            "'road_sign' on line 2 and 'road sign' on line 3, which",
        ),
        (["path,label", "0.png,a", "x/../0.png,b"], "lists .* on lines 2 and 3"),
        (["path,label", "0.png,a", "./0.png,b"], "lists .* on lines 2 and 3"),
        (["path,label,split", "0.png,a,train", "1.png,b,eval", "2.png,b,val", "3.png,b,test"], "split eval beside"),
    ],
)
def test_rows_that_can_be_read_two_ways_are_refused(tmp_path, lines, words):
    with pytest.raises(InputError, match=words):
        table(tmp_path, "\n".join(lines))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ('{"path": "0.png", "label": NaN}', "line 1 has label nan"),
        ('{"path": "0.png", "label": 1.0}', "line 1 has label 1.0"),
        ('{"path": "0.png", "label": null}', "line 1 has label None"),
        ('{"path": "0.png", "label": "a", "label": "b"}', "an object gives 'label' twice at line 1"),
        ('{"path": ["0.png"], "label": "a"}', "line 1 has no path"),
        (
            '{"path": "\\ud800.png", "label": "a"}\n{"path": "1.png", "label": "b"}',
            r"ud800.png', which is not UTF-8",
        ),
        (
            '{"path": "0.png", "label": "a\\udce9"}\n{"path": "1.png", "label": "b"}',
            r"'a\\xe9' for class 0, which is not",
        ),
        (
            '{"path": "0.png", "label": "a\\u0007"}\n{"path": "1.png", "label": "b"}',
            "which holds a control character: rename",
        ),
    ],
)
def test_records_that_say_nothing_are_refused(tmp_path, record, words):
    (tmp_path / "x.jsonl").write_text(record)
    with pytest.raises((InputError, FileError), match=words):
        load_dataset(tmp_path / "x.jsonl", check_files=False)


def test_a_path_with_a_zero_byte_is_not_there(tmp_path):
    rows = [("0\0.png", 0, "a"), ("1.png", 1, "b")]
    coop_file(tmp_path / "s.json", train=rows, test=rows)
    with pytest.raises((InputError, FileError), match=r"not there|not UTF-8"):
        load_dataset(tmp_path / "s.json")


def test_blanks_around_labels_and_paths_do_not_count(root):
    text = "\n".join(["path,label", *(f"  {path} , {name}  " for path, name in ROWS)])
    assert table(root, text).class_names == ("Käse", "猫")


def test_splits_of_a_table_are_named_as_folders_are(root):
    names = ["Training", "dev", "eval", "train"]
    text = "\n".join(["path,label,split", *(f"{path},{name},{names[n % 4]}" for n, (path, name) in enumerate(ROWS))])
    dataset = table(root, text)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (4, 2, 2)


@pytest.mark.parametrize("labels", [("01", "1"), ("1", "1.0"), ("Cat", "cat")])
def test_labels_that_are_nearly_one_are_warned_of(tmp_path, labels):
    lines = [f"{number}.png,{labels[number % 2]}" for number in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    with pytest.warns(UserWarning, match=" and ".join(map(repr, labels))):
        dataset = load_dataset(tmp_path / "list.csv", check_files=False)
    assert dataset.class_names == labels


def test_whole_numbers_of_json_are_labels(tmp_path):
    lines = [json.dumps({"path": f"{number}.png", "label": number % 3 + 9}) for number in range(9)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    assert read_table(tmp_path / "x.jsonl", check_files=False).class_names == ("9", "10", "11")


def test_home_and_absolute_paths(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    (tmp_path / "lists").mkdir()
    text = "\n".join(
        [
            "path,label",
            *(f"~/{path},{name}" for path, name in ROWS[:4]),
            *(f"{root / path},{name}" for path, name in ROWS[4:]),
        ]
    )
    (tmp_path / "lists" / "list.csv").write_text(text)
    dataset = load_dataset("~/lists/list.csv")
    assert {sample.path for sample in dataset.train} <= {root / path for path, _ in ROWS}
    assert load_dataset("~").root == root.resolve() or load_dataset("~").root == root


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("far", ["../outside/{}", "{outside}/{}", "in/../../outside/{}"])
def test_pictures_outside_the_folder_are_said(tmp_path, kind, far):
    make_classes(tmp_path / "outside", {"a": 4, "b": 4})
    (tmp_path / "set" / "in").mkdir(parents=True)
    names = [(far.format(f"{name}/{n}.png", outside=tmp_path / "outside"), name) for name in "ab" for n in range(4)]
    if kind == "csv":
        (tmp_path / "set" / "list.csv").write_text("\n".join(["path,label", *map(",".join, names)]))
    else:
        rows = [(path, int(name == "b"), name) for path, name in names]
        coop_file(tmp_path / "set" / "list.json", train=rows[:3] + rows[4:7], test=[rows[3], rows[7]])
    (note,) = load_dataset(tmp_path / "set" / f"list.{kind}").notes
    assert note.startswith(f"8 listed outside of {tmp_path / 'set'} (first ")
    assert any(
        "8 listed outside" in line for line in check_dataset(tmp_path / "set" / f"list.{kind}", progress=False).lines()
    )


def test_paths_inside_are_not_said(root):
    (root / "list.csv").write_text(csv_text())
    assert load_dataset(root / "list.csv").notes == ()


@pytest.mark.parametrize("names", [("crane", "crane"), ("road_sign", "road sign"), ("Ka\u0308se", "Käse")])
def test_two_labels_of_one_name_are_refused(tmp_path, names):
    rows = [("0.png", 3, names[0]), ("1.png", 7, names[1]), ("2.png", 9, "x")]
    coop_file(tmp_path / "s.json", train=rows, test=rows)
    with pytest.raises(InputError, match=r"gives labels 3 and 7 the name .*: rename one of them"):
        read_coop_split(tmp_path / "s.json", check_files=False)


def test_a_data_set_made_by_hand_has_no_two_classes_of_one_name(root):
    from dataclasses import replace

    with pytest.raises(InputError, match="has two classes called '猫'"):
        replace(load_dataset(root), class_names=("猫", "猫"))


def test_check_finds_what_is_the_same(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        make_classes(tmp_path / split, {"cat": 3, "dog": 3})
    Image.open(tmp_path / "train" / "cat" / "0.png").save(tmp_path / "test" / "cat" / "x.bmp")
    shutil.copy(tmp_path / "train" / "cat" / "1.png", tmp_path / "train" / "dog" / "y.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = check_dataset(tmp_path, progress=False)
    pairs = {frozenset(path.name for path in pair) for pair in report.duplicates}
    assert frozenset(("0.png", "x.bmp")) in pairs
    twice = report.two_labels or report.duplicates  # the copy may have become a validation picture
    assert any("y.png" in {path.name for path in pair} for pair in twice)
    assert not report.ok and any("in two" in line for line in report.lines())


def test_the_same_picture_in_two_classes_is_found(tmp_path):
    for split in ("train", "val", "test"):
        make_classes(tmp_path / split, {"cat": 3, "dog": 3})
    shutil.copy(tmp_path / "train" / "cat" / "1.png", tmp_path / "train" / "dog" / "y.png")
    report = check_dataset(tmp_path, progress=False)
    assert report.two_labels == ((tmp_path / "train" / "cat" / "1.png", tmp_path / "train" / "dog" / "y.png"),)
    assert not report.ok and any("in two classes" in line for line in report.lines())


def test_pictures_that_look_alike_are_a_hint_only(tmp_path):
    import numpy as np
    from PIL import Image

    for split in ("train", "val", "test"):
        make_classes(tmp_path / split, {"cat": 5, "dog": 5})
    smooth = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(smooth).resize((256, 192), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "train" / "cat" / "a.png")
    picture.resize((200, 150)).save(tmp_path / "test" / "cat" / "b.jpg", quality=80)
    Image.fromarray(smooth[::-1].copy()).resize((256, 192)).save(tmp_path / "test" / "cat" / "other.png")
    report = check_dataset(tmp_path, progress=False)
    assert report.ok and len(report.hints) == 1
    assert "look alike" in report.hints[0] and "a.png and" in report.hints[0] and "b.jpg" in report.hints[0]


def test_long_pictures_are_named(tmp_path):
    for split in ("train", "val", "test"):
        make_classes(tmp_path / split, {"cat": 5, "dog": 5})
    make_picture(tmp_path / "test" / "cat" / "long.png", size=(30_000, 20))
    make_picture(tmp_path / "test" / "cat" / "high.png", size=(1, 40))
    hints = check_dataset(tmp_path, progress=False).hints
    assert sorted(hint.split("/")[-1].split(" pixels")[0] for hint in hints) == [
        "high.png is 1 x 40",
        "long.png is 30000 x 20",
    ]
