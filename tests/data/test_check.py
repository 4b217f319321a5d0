import shutil

import numpy as np
from PIL import Image

from tests.data.pictures import make_classes
from vlmadapt.data import check_dataset, load_dataset


def check(spec, **options):
    return check_dataset(spec, progress=False, **options)


def make_set(root):
    for split in ("train", "val", "test"):
        make_classes(root / split, {"cat": 2, "fish": 3})
    return root


def test_sound_set(tmp_path):
    report = check(make_set(tmp_path / "zoo"))
    assert report.ok
    assert report.counts == {"train": [2, 3], "val": [2, 3], "test": [2, 3]}
    text = "\n".join(report.lines())
    assert "zoo: 2 classes" in text and "      3      3      3  fish" in text and "nothing wrong found" in text


def test_every_unreadable_picture_is_named(tmp_path):
    make_set(tmp_path)
    bad = [tmp_path / "train" / "cat" / "1.png", tmp_path / "test" / "fish" / "0.png"]
    for number, path in enumerate(bad):
        path.write_bytes(b"broken" + bytes([number]))
    report = check(tmp_path)
    assert [str(path) in sentence for path, sentence in zip(bad, report.unreadable, strict=True)] == [True, True]
    assert not report.ok and report.unreadable[0] in report.lines()


def test_equal_pictures_in_two_splits(tmp_path):
    make_set(tmp_path)
    first, second = tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "fish" / "2.png"
    shutil.copy(first, second)
    shutil.copy(first, tmp_path / "train" / "cat" / "again.png")  # twice in one split is no leak
    report = check(tmp_path)
    assert report.duplicates == ((first, second),)
    assert any("in two splits" in line for line in report.lines())


def test_missing_pictures_of_a_listing(tmp_path):
    make_classes(tmp_path, {"a": 2, "b": 2})
    lines = ["path,label", *(f"{name}/{number}.png,{name}" for name in "ab" for number in range(3))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    report = check(tmp_path / "list.csv")
    assert set(report.missing) == {tmp_path / "a" / "2.png", tmp_path / "b" / "2.png"}


def test_class_without_test_pictures(tmp_path):
    make_set(tmp_path)
    make_classes(tmp_path / "train", {"bee": 2})
    (problem,) = check(tmp_path).problems
    assert problem == "class 'bee' has no pictures in test: add some or leave it out"


def test_what_cannot_be_loaded_is_reported(tmp_path):
    (problem,) = check(tmp_path / "nowhere.csv").problems
    assert "nowhere.csv does not exist" in problem


def test_loaded_sets_are_taken_too(tmp_path):
    assert check(load_dataset(make_set(tmp_path))).ok


def test_copies_within_a_class_and_small_classes_are_hints(tmp_path):
    make_set(tmp_path)
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "train" / "cat" / "again.png")
    report = check(tmp_path)
    hints = "\n".join(report.hints)
    assert report.ok and "1 picture is a copy of another of the same class" in hints and "again.png" in hints
    assert "2 classes have fewer than 5 pictures in test ('cat' 2, 'fish' 3)" in hints


def test_look_alikes_are_told_by_where_they_are(tmp_path):
    make_set(tmp_path)
    speckled = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(speckled).resize((256, 256), Image.Resampling.BICUBIC)
    places = ["train/cat/a.jpg", "train/cat/b.jpg", "train/fish/c.jpg", "test/cat/d.jpg"]
    for quality, place in zip((95, 90, 85, 80), places, strict=True):
        picture.save(tmp_path / place, quality=quality)
    hints = check(tmp_path).hints
    assert any("in two splits look alike" in hint and "d.jpg" in hint for hint in hints)
    assert any("in two classes look alike" in hint and "c.jpg" in hint for hint in hints)
    assert any("1 picture looks like another of the same class" in hint and "b.jpg" in hint for hint in hints)


def test_domains_with_a_folder_between_them_and_the_classes_are_noticed(tmp_path):
    for domain in ("amazon", "dslr"):
        make_classes(tmp_path / domain / "images", {"bike": 3, "mug": 3})
    (problem,) = check(tmp_path).problems
    assert "(amazon, dslr) all hold the same folders (bike, mug)" in problem and "--domain" in problem
    assert check(tmp_path, domain="dslr").class_names == ("bike", "mug")
