"""Folders as people have them: what is a split, a class, a domain, and what is left out and said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from PIL import Image, features

from tests.data.pictures import make_classes, make_picture
from vlmadapt.data import check_dataset, load_dataset, read_folder, sample_shots
from vlmadapt.data.names import alike, class_name_of, ordered, resolve_eval, split_named, split_word
from vlmadapt.data.walk import LeftOut, list_images
from vlmadapt.errors import FileError, InputError
from vlmadapt.files import write_json
from vlmadapt.pictures import kinds

PETS = {"cat": 4, "dog": 5}


def pets(root: Path, counts: dict[str, int] | None = None) -> Path:
    return make_classes(root, counts or PETS)


def load(root: Path, **options):
    """The data set, whose doubts are what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = load_dataset(root, **options)
    assert [str(each.message) for each in caught] == [f"{doubt}." for doubt in dataset.doubts]
    return dataset


def sizes(dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.val), len(dataset.test)


SPLIT_FOLDERS = [
    ("train", "valid", "test"),
    ("training_set", None, "test_set"),
    ("seg_train", None, "seg_test"),
    ("train_images", None, "test_images"),
    ("Training", None, "Test Set"),
    ("TRAIN", "VAL", "TEST"),
    ("train", None, "eval"),
    ("train", "dev", "eval"),
    ("train", "eval", "test"),
    ("trainImages", "valImages", "testImages"),
    ("train2017", "val2017", "test2017"),
    ("pets-train", "pets-val", "pets-test"),
    ("01_train", "02_valid", "03_test"),
    ("trainset", "valset", "testset"),
    ("Train Data", None, "Holdout"),
    ("training", "Validierung", "Test"),
    ("Trainingsdaten", "Validierungsdaten", "Testdaten"),
    ("entraînement", "validation", "test"),
    ("entrenamiento", "validación", "prueba"),
    ("treino", "validação", "teste"),
    ("addestramento", "validazione", "test"),
    ("обучение", "валидация", "тест"),
    ("训练集", "验证集", "测试集"),
    ("学習", "検証", "テスト"),
    ("훈련", "검증", "테스트"),
]


@pytest.mark.parametrize("names", SPLIT_FOLDERS, ids=lambda names: "+".join(filter(None, names)))
def test_split_folders_by_whatever_name(tmp_path, names):
    for number, name in enumerate(names):
        if name is not None:
            pets(tmp_path / name, {"cat": 5 + number, "dog": 5 + number})
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and not dataset.doubts
    assert sizes(dataset) == ((10, 12, 14) if names[1] else (8, 2, 14))


@pytest.mark.parametrize(
    "names",
    [
        ("train_station", "test_tube"),
        ("steam train", "model train"),
        ("training shoe", "test card"),
        ("bus", "train"),
        ("val_d_isere", "train"),
    ],
)
def test_classes_whose_names_speak_of_splits_are_classes(tmp_path, names):
    make_classes(tmp_path, dict.fromkeys(names, 3))
    assert load(tmp_path).class_names == tuple(sorted(class_name_of(name) for name in names))


def test_words_of_splits():
    assert split_word("Seg_Train") == ("train", ("seg",)) and split_word("bus") is None
    assert split_word("train_test") is None  # speaks of two
    assert [split_named(text) for text in ("dev", " Test Set ", "hold-out", "seg_train", "")] == [
        *("val", "test", "test"),
        *(None, None),
    ]
    assert resolve_eval({"train": 1, "eval": 2}) == {"train": 1, "test": 2}
    assert resolve_eval({"train": 1, "test": 3, "eval": 2}) == {"train": 1, "test": 3, "val": 2}
    assert resolve_eval({"train": 1, "val": 3, "eval": 2}) == {"train": 1, "val": 3, "test": 2}
    assert "eval" in resolve_eval({"train": 1, "val": 3, "test": 4, "eval": 2})


@pytest.mark.parametrize("beside", ["unlabelled", "unlabeled", "extra", "bilder", "Neuer Ordner"])
def test_train_beside_folders_without_labels_is_split_by_seed(tmp_path, beside):
    pets(tmp_path / "train", {"cat": 10, "dog": 10})
    make_picture(tmp_path / beside / "x.png")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and sizes(dataset) == (10, 4, 6)
    assert any(beside in note for note in dataset.notes) and any("the only split" in note for note in dataset.notes)
    assert beside in dataset.describe()


@pytest.mark.parametrize("beside", ["annotations", "labels", "unlabelled", "docs"])
def test_folders_beside_splits_are_named(tmp_path, beside):
    for split in ("train", "test"):
        pets(tmp_path / split)
    (tmp_path / beside).mkdir()
    (tmp_path / beside / "a.xml").write_text("<a/>")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and not dataset.doubts
    assert [beside in note for note in dataset.notes] == [True]


@pytest.mark.parametrize("flat", ["test", "val"])
def test_a_flat_split_is_left_out_and_the_rest_is_fitted(tmp_path, flat):
    for split in {"train", "val", "test"} - {flat}:
        pets(tmp_path / split, {"cat": 5, "dog": 5})
    for number in range(3):
        make_picture(tmp_path / flat / f"{number}.png")
    dataset = load(tmp_path)
    assert sizes(dataset) == ((10, 10, 0) if flat == "test" else (8, 2, 10))
    assert f"{tmp_path / flat} holds pictures without class folders (3)" in dataset.doubts[0]
    assert len(sample_shots(dataset, 2, 0).train) == 4
    assert not check_dataset(tmp_path, progress=False).ok


def test_without_a_test_folder_it_is_said_that_nothing_can_be_evaluated(tmp_path):
    for split in ("train", "val"):
        pets(tmp_path / split)
    dataset = load(tmp_path)
    assert sizes(dataset) == (9, 9, 0)
    assert "has no test pictures: it can be fitted, but neither compared nor evaluated" in dataset.doubts[0]


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train", "test"], "holds test, train without class folders"),
        (["训练", "测试"], "without class folders"),
        (["images", "masks"], r"\(images, masks\) name kinds of files, not classes"),
        (["train/images", "train/labels", "test/images", "test/labels"], "name kinds of files"),
        (["images"], "name kinds of files"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, folders, words):
    make_classes(tmp_path, dict.fromkeys(folders, 3))
    with pytest.raises(InputError, match=words):
        load_dataset(tmp_path)


def test_detection_data_is_no_data_of_classes(tmp_path):
    for split in ("train", "valid", "test"):
        make_classes(tmp_path / split, {"images": 3})
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "0.txt").write_text("0 .5 .5 .1 .1")
    with pytest.raises(InputError, match=r"\(images\) name kinds of files"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("inner", ["pets", "pets/pets", "images/pets", "train"])
def test_a_folder_around_all_is_looked_through(tmp_path, inner):
    pets(tmp_path / inner)
    (tmp_path / "README.md").write_text("pets")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and f"read from {tmp_path / inner}" in dataset.notes[0]


def test_splits_that_repeat_their_name(tmp_path):
    for split in ("seg_train", "seg_test"):
        pets(tmp_path / split / split)
    make_picture(tmp_path / "seg_pred" / "seg_pred" / "1.png")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and len(dataset.test) == 9
    assert any("seg_pred" in note for note in dataset.notes)


def test_splits_with_a_folder_of_images(tmp_path):
    for split in ("train", "test"):
        pets(tmp_path / split / "images")
    assert load(tmp_path).class_names == ("cat", "dog")


CLUTTER = [
    "__MACOSX/cat",
    "thumbnails",
    "Thumbs",
    "@eaDir",
    ".ipynb_checkpoints",
    "$RECYCLE.BIN",
    "cat/@eaDir/1.jpg",
    "cat/.thumbnails",
    "dog/thumbnails",
]


@pytest.mark.parametrize("folder", CLUTTER)
def test_what_programs_leave_beside_pictures_is_no_class(tmp_path, folder):
    pets(tmp_path)
    make_picture(tmp_path / folder / "SYNOPHOTO_THUMB.jpg")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog") and sum(sizes(dataset)) == 9
    hidden = "/." in f"/{folder}"
    assert any("thumbnails or system files" in note for note in dataset.notes) is not hidden


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", {"format": 1, "few_shot_split_hash": ""}),
        ("unfinished.json", {"format": 1, "split_hash": ""}),
        ("results.json", {"format": 1, "cells": []}),
        ("adapter.json", {"format_version": 1}),
    ],
)
@pytest.mark.parametrize("place", ["runs/pets-xmadapter-16", "out"])
def test_folders_we_wrote_are_left_out(tmp_path, name, content, place):
    pets(tmp_path)
    before = load(tmp_path)
    write_json(tmp_path / place / name, content)
    make_picture(tmp_path / place / "curve.png")
    make_picture(tmp_path / place / "deeper" / "curve.png")
    dataset = load(tmp_path)
    assert dataset.split_hash == before.split_hash
    assert any("vlmadapt wrote" in note and place.split("/")[0] in note for note in dataset.notes)


def test_pictures_among_our_runs_are_no_class(tmp_path):
    pets(tmp_path)
    write_json(tmp_path / "runs" / "a" / "run.json", {"few_shot_split_hash": ""})
    make_picture(tmp_path / "runs" / "explained.png")
    assert load(tmp_path).class_names == ("cat", "dog")


def test_a_class_that_holds_json_of_its_own_is_a_class(tmp_path):
    pets(tmp_path)
    write_json(tmp_path / "dog" / "results.json", {"found": 3})
    (tmp_path / "cat" / "run.json").write_text("[")
    write_json(tmp_path / "dog" / "out" / "run.json", {"few_shot_split_hash": ""})
    assert sum(sizes(load(tmp_path))) == 9


def test_endings_that_are_read_and_counted(tmp_path):
    pets(tmp_path)
    picture = Image.new("RGB", (16, 16), "red")
    for name in ("a.jfif", "b.jpe", "c.JFIF", "d", "e.jpg_large", "f.JPG", "g.heic", "h.2019"):
        picture.save(tmp_path / "cat" / name, format="JPEG")
    picture.save(tmp_path / "cat" / "i", format="PNG")
    picture.save(tmp_path / "cat" / "j", format="TIFF")
    picture.save(tmp_path / "cat" / "k.pnm", format="PPM")
    for name in ("w.heic", "x.HEIC", "y.dng", "z.psd"):
        (tmp_path / "cat" / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (tmp_path / "cat" / "v").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    picture.save(tmp_path / "cat" / "a.jpg.bak", format="JPEG")
    picture.save(tmp_path / "cat" / "a.jpg~", format="JPEG")
    (tmp_path / "cat" / "notes.txt").write_text("BMW")
    (tmp_path / "cat" / "LICENSE").write_text("P5")
    left_out = LeftOut()
    assert len(list_images(tmp_path / "cat", left_out)) == 4 + 11
    dataset = load(tmp_path)
    (doubt,) = dataset.doubts
    assert doubt.startswith("7 pictures (first ") and "of formats that are not read left out" in doubt
    assert "1 .bak, 1 .dng, 2 .heic, 1 .jpg~, 1 .psd, 1 no ending" in doubt
    report = check_dataset(tmp_path, progress=False)
    assert not report.ok and any("formats that are not read" in line for line in report.lines())


def test_avif_where_pillow_has_it_and_where_not(tmp_path, monkeypatch):
    pets(tmp_path)
    (tmp_path / "cat" / "a.avif").write_bytes(b"\0\0\0\x20ftypavif" + bytes(20))
    found = [path.name for path in list_images(tmp_path / "cat")]
    assert ("a.avif" in found) is features.check("avif")
    without = tuple(name for name in kinds.formats() if name != "AVIF")
    monkeypatch.setattr(kinds, "formats", lambda: without)
    kinds._endings.cache_clear()
    try:
        (doubt,) = load(tmp_path).doubts
        assert "1 .avif" in doubt
    finally:
        monkeypatch.undo()
        kinds._endings.cache_clear()


def test_a_class_of_pictures_that_are_not_read_is_named(tmp_path):
    pets(tmp_path)
    (tmp_path / "hen").mkdir()
    (tmp_path / "hen" / "1.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with pytest.raises(
        InputError, match=r"class folder .*hen holds only pictures of formats that are not read \(.heic\)"
    ):
        load_dataset(tmp_path)


def test_folders_without_pictures_and_loose_pictures_are_named(tmp_path):
    pets(tmp_path)
    (tmp_path / "annotations" / "xml").mkdir(parents=True)
    (tmp_path / "annotations" / "xml" / "1.xml").write_text("<a/>")
    make_picture(tmp_path / "cover.png")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert any("annotations holds no pictures" in note for note in dataset.notes)
    assert any("1 picture (" in note and "outside the class folders" in note for note in dataset.notes)


def test_pipes_are_not_waited_for(tmp_path):
    pets(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert len(list_images(tmp_path / "cat")) == 4


def test_links_that_lead_to_themselves(tmp_path):
    pets(tmp_path)
    os.symlink(tmp_path / "cat" / "self", tmp_path / "cat" / "self")
    os.symlink(tmp_path / "cat" / "self.png", tmp_path / "cat" / "self.png")
    os.symlink("..", tmp_path / "cat" / "up")
    names = [path.relative_to(tmp_path / "cat").as_posix() for path in list_images(tmp_path / "cat")]
    assert names[:4] == ["0.png", "1.png", "2.png", "3.png"] and "self.png" in names and "self" not in names


# Class names and their order.


def test_numbers_as_folders_and_as_labels_are_the_same_classes(tmp_path):
    make_classes(tmp_path, {"1": 3, "2": 3, "10": 3})
    lines = [f"{name}/{number}.png,{name}" for name in ("10", "1", "2") for number in range(3)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    assert load(tmp_path).class_names == load(tmp_path / "list.csv").class_names == ("1", "2", "10")


def test_underscores_are_read_alike_in_folders_and_tables(tmp_path):
    make_classes(tmp_path, {"road_sign": 3, "bus": 3})
    lines = [f"{name}/{number}.png,{name}" for name in ("road_sign", "bus") for number in range(3)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    assert load(tmp_path).class_names == load(tmp_path / "list.csv").class_names == ("bus", "road sign")


def test_classes_align_by_name(tmp_path):
    dataset = load(make_classes(tmp_path, {"ant": 3, "road_sign": 3, "bee": 3}))
    other = dataset.with_classes(("road_sign", "bee", "ant"))
    assert other is not None and other.class_names == ("road_sign", "bee", "ant")
    for before, after in zip(dataset.train, other.train, strict=True):
        assert before.path == after.path
        assert class_name_of(other.class_names[after.label]) == dataset.class_names[before.label]
    more = dataset.with_classes(("wasp", "ant", "bee", "road sign"))
    assert more is not None and more.counts("train") == [0, *dataset.counts("train")]
    assert dataset.with_classes(("ant", "bee")) is None
    assert dataset.with_classes(("ant", "bee", "road sign", "road_sign")) is None


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "01", "1"], ["01", "1", "9", "10"]),
        (["1", "1.0", "01"], ["01", "1", "1.0"]),
        (["b", "a", "B"], ["B", "a", "b"]),
    ],
)
def test_the_order_of_classes_depends_on_nothing_else(names, order):
    assert ordered(names) == ordered(reversed(names)) == order


def test_the_order_does_not_depend_on_the_hash_seed(tmp_path):
    make_classes(tmp_path, {"a": 6})
    rows = [f"a/{number}.png,{label}" for number, label in enumerate(["01", "1", "001", "2", "1.", "02"])]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows[:4], rows[5]]))
    code = f"from vlmadapt.data import read_table; print(read_table({str(tmp_path / 'list.csv')!r}).class_names)"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert printed == {"('001', '01', '1', '02', '2')\n"}


@pytest.mark.parametrize("names", [("Cat", "cat"), ("01", "1"), ("1", "1.0"), ("STRASSE", "straße")])
def test_names_that_are_nearly_one_are_warned_of(tmp_path, names):
    make_classes(tmp_path, dict.fromkeys([*names, "x"], 3))
    dataset = load(tmp_path)
    assert len(dataset.class_names) == 3
    assert [repr(name) in dataset.doubts[0] for name in names] == [True, True]
    assert not check_dataset(tmp_path, progress=False).ok
    assert alike(["a", "b", "nan"]) == []


def test_a_class_in_another_case_in_another_split_is_warned_of(tmp_path):
    pets(tmp_path / "train")
    pets(tmp_path / "test", {"Cat": 3, "dog": 3})
    assert "'Cat' and 'cat'" in load(tmp_path).doubts[0]


# Domains.

DOMAINS = {
    f"{domain}/{name}": 6
    for domain in ("art", "cartoon", "photo", "sketch")
    for name in ("dog", "elephant", "giraffe")
    if (domain, name) != ("sketch", "giraffe")
}


@pytest.mark.parametrize("stray", [True, False])
def test_domains_are_noticed(tmp_path, stray):
    make_classes(tmp_path, DOMAINS)
    if stray:
        make_picture(tmp_path / "photo" / "contact sheet.png")
    dataset = load(tmp_path)
    assert "all hold the same folders (dog, elephant, giraffe)" in dataset.doubts[0]
    assert "--domain" in dataset.doubts[0]
    report = check_dataset(tmp_path, progress=False)
    assert not report.ok and any("--domain" in line for line in report.lines())


def test_one_domain_trains_and_tests(tmp_path):
    make_classes(tmp_path, DOMAINS)
    dataset = load(tmp_path, domain="photo")
    assert dataset.class_names == ("dog", "elephant", "giraffe") and sizes(dataset) == (9, 3, 6)
    assert not dataset.doubts and dataset.name.endswith("-photo")
    assert {dataset.key(sample).split("/")[0] for sample in (*dataset.train, *dataset.val, *dataset.test)} == {"photo"}
    assert all(dataset.key(sample).split("/")[1] == dataset.class_names[sample.label] for sample in dataset.train)


@pytest.mark.parametrize(("test_domain", "where", "count"), [("sketch", {"sketch"}, 12), ("others", None, 48)])
def test_other_domains_test(tmp_path, test_domain, where, count):
    make_classes(tmp_path, DOMAINS)
    dataset, own = load(tmp_path, domain="photo", test_domain=test_domain), load(tmp_path, domain="photo")
    assert (dataset.train, dataset.val) == (own.train, own.val) and len(dataset.test) == count
    found = {dataset.key(sample).split("/")[0] for sample in dataset.test}
    assert found == (where or {"art", "cartoon", "sketch"})
    assert {dataset.class_names[sample.label] for sample in load(tmp_path, domain="sketch").train} == {
        "dog",
        "elephant",
    }


def test_domains_with_splits_of_their_own(tmp_path):
    for domain in ("photo", "sketch"):
        for split in ("train", "test"):
            pets(tmp_path / domain / split)
    assert load(tmp_path).doubts  # photo and sketch would be the classes
    assert load(tmp_path, domain="photo").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"domain": "Photo"}, "domain is 'Photo', but the domains of .* are art, cartoon, photo, sketch"),
        ({"domain": "photo", "test_domain": "sketsch"}, "test_domain is 'sketsch'"),
        ({"domain": "others"}, "domain is 'others'"),
        ({"test_domain": "photo"}, "without a domain"),
    ],
)
def test_bad_domains(tmp_path, options, words):
    make_classes(tmp_path, DOMAINS)
    with pytest.raises(InputError, match=words):
        load_dataset(tmp_path, **options)


def test_a_list_has_no_domains(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n")
    with pytest.raises(InputError, match="is no folder of domains"):
        load_dataset(tmp_path / "list.csv", domain="photo")


@pytest.mark.parametrize(
    "inside", [["cat/train", "cat/test", "dog/train", "dog/test"], ["alpha/cat", "alpha/dog", "beta/cat", "beta/dog"]]
)
def test_equal_folders_in_all_classes_are_doubted(tmp_path, inside):
    make_classes(tmp_path, dict.fromkeys(inside, 3))
    assert any("all hold the same folders" in doubt for doubt in load(tmp_path).doubts)


@pytest.mark.parametrize("inside", [["cat/a", "cat/b", "dog/c", "dog/d"], ["cat/a", "dog/a"]])
def test_other_folders_in_classes_are_not(tmp_path, inside):
    make_classes(tmp_path, dict.fromkeys(inside, 3))
    assert not load(tmp_path).doubts


# Bytes and rights.


@pytest.mark.parametrize("where", ["file", "class", "root"])
def test_names_of_other_bytes_are_refused_and_shown(tmp_path, where):
    root = os.fsencode(tmp_path) + (b"/p\xe9ts" if where == "root" else b"/pets")
    pets(Path(os.fsdecode(root)))
    if where == "file":
        shutil.copy(root + b"/cat/0.png", root + b"/cat/caf\xe9.png")
    if where == "class":
        os.rename(root + b"/cat", root + b"/caf\xe9")
    with pytest.raises(InputError, match=r"(caf|p)\\xe9.* is not UTF-8 text") as caught:
        load_dataset(Path(os.fsdecode(root)))
    str(caught.value).encode()
    report = check_dataset(Path(os.fsdecode(root)), progress=False)
    assert not report.ok and "\\xe9" in "\n".join(report.lines())


def as_nobody(root: Path) -> str:
    """What reading ``root`` says to a user with no rights, in a copy of this process: root may read everything."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            read_folder(root)
        except Exception as error:
            os.write(outlet, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(outlet)
    os.waitpid(child, 0)
    with open(inlet, encoding="utf-8") as stream:
        return stream.read()


@pytest.mark.parametrize("mode", [0o444, 0o000, 0o111])
def test_a_class_folder_that_may_not_be_read_is_named(mode):
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        os.chmod(place, 0o755)
        root = pets(Path(place, "pets"))
        (root / "dog").chmod(mode)
        said = as_nobody(root)
        (root / "dog").chmod(0o755)
    words = "may not be read by this user: run chmod u+rx on it, or remove it."
    assert said == f"FileError: folder {root / 'dog'} {words}"


def test_errors_of_folders_name_them(tmp_path, monkeypatch):
    pets(tmp_path)
    monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(FileError, match=f"could not read {tmp_path}: Permission denied"):
        load_dataset(tmp_path)
