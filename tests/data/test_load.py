import pytest

from tests.data.pictures import coop_file, make_classes
from vlmadapt.data import load_dataset
from vlmadapt.errors import FileError, InputError


def test_every_kind_of_spec(tmp_path):
    make_classes(tmp_path / "set", {"a": 4, "b": 4})
    rows = [(f"{name}/{number}.png", label, name) for label, name in enumerate("ab") for number in range(4)]
    (tmp_path / "set" / "list.csv").write_text("path,label\n" + "\n".join(f"{path},{name}" for path, _, name in rows))
    coop_file(tmp_path / "split.json", train=rows[:3] + rows[4:7], test=[rows[3], rows[7]])
    for dataset in (
        load_dataset(str(tmp_path / "set")),
        load_dataset(tmp_path / "set" / "list.csv"),
        load_dataset(tmp_path / "split.json", root=tmp_path / "set"),
    ):
        assert dataset.class_names == ("a", "b")
        assert dataset.templates == ("a photo of a {}.",)
        assert sum(len(dataset.split(split)) for split in ("train", "val", "test")) == 8


def test_own_templates(tmp_path):
    make_classes(tmp_path, {"a": 3, "b": 3})
    assert load_dataset(tmp_path, templates=["a {} seen from above."]).templates == ("a {} seen from above.",)
    with pytest.raises(InputError, match=r"must contain {} once"):
        load_dataset(tmp_path, templates=["no place"])


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("no_such_set", InputError, "'no_such_set' is no data set: .*clipart.*caltech101"),
        ("there/is/none", FileError, "there/is/none does not exist"),
        ("caltech101", InputError, "caltech101 needs root: give the folder that holds caltech-101/"),
    ],
)
def test_unknown_specs(tmp_path, monkeypatch, spec, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        load_dataset(spec)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match=r"x\.txt is not a listing"):
        load_dataset(tmp_path / "x.txt")


@pytest.mark.parametrize("spec", ["", "  "])
def test_no_name_is_not_the_current_folder(spec):
    with pytest.raises(InputError, match=r"data is '.*': give a folder, a file or the name"):
        load_dataset(spec)
