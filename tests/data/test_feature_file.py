"""Files of features as data: what they may be called, how they are split, and what is wrong with them in a sentence."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from vlmadapt import files
from vlmadapt.data import Dataset, check_dataset, load_dataset
from vlmadapt.data.types import Row
from vlmadapt.errors import FileError, InputError

CLASSES, WIDTH, EACH = 3, 8, 10


def plain(each: int = EACH, seed: int = 0) -> dict[str, torch.Tensor]:
    """Image features, drawn by ``seed`` around three texts, and their labels."""
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(CLASSES).repeat(each)
    noise = torch.randn(len(labels), WIDTH, generator=torch.Generator().manual_seed(seed + 1))
    features = centres[labels] + 0.3 * noise
    return {"image_features": features, "labels": labels, "text_features": centres}


def without_text(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if name != "text_features"}


def parted() -> dict[str, torch.Tensor]:
    found = {"text_features": plain()["text_features"]}
    for seed, split in enumerate(("train", "val", "test")):
        rows = plain(4, seed)
        found |= {f"{split}_features": rows["image_features"], f"{split}_labels": rows["labels"]}
    return found


def write(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in tensors.items()}
        np.savez(path, **arrays)
    else:
        safetensors.torch.save_file(tensors, path, metadata)
    return path


@pytest.fixture(params=[".safetensors", ".npz"])
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def rows(dataset: Dataset, split: str) -> torch.Tensor:
    found = dataset.split(split)
    assert all(isinstance(row, Row) for row in found)
    return torch.stack([row.feature for row in found])  # type: ignore[attr-defined]


def test_rows_without_splits_are_split_by_seed(tmp_path: Path, suffix: str) -> None:
    tensors = plain()
    path = write(tmp_path / f"birds{suffix}", tensors)
    dataset = load_dataset(path)
    assert dataset.name == "birds" and dataset.class_names == ("class 0", "class 1", "class 2") and dataset.seeded
    assert [dataset.counts(split) for split in ("train", "val", "test")] == [[5] * 3, [2] * 3, [3] * 3]
    assert load_dataset(str(path), seed=1).split_hash != dataset.split_hash == load_dataset(str(path)).split_hash
    for row in dataset.test:
        assert isinstance(row, Row) and torch.equal(row.feature, tensors["image_features"][row.index])
        assert row.label == tensors["labels"][row.index]
    assert dataset.given is not None and dataset.given.logit_scale is None and dataset.given.text is not None
    assert torch.equal(dataset.given.text, tensors["text_features"])
    assert check_dataset(path, progress=False).ok


def test_the_same_rows_are_drawn_from_the_features_of_any_encoder(tmp_path: Path) -> None:
    first = load_dataset(write(tmp_path / "a.safetensors", plain()))
    other = load_dataset(write(tmp_path / "b.safetensors", plain(seed=1)))
    assert first.split_hash == other.split_hash
    assert first.train[0].identity() != other.train[0].identity()


def test_a_tensor_a_split(tmp_path: Path, suffix: str) -> None:
    tensors = parted()
    dataset = load_dataset(write(tmp_path / f"a{suffix}", tensors))
    assert not dataset.seeded
    for split in ("train", "val", "test"):
        assert torch.equal(rows(dataset, split), tensors[f"{split}_features"])


def test_without_validation_rows_a_fifth_of_training_is_taken(tmp_path: Path, suffix: str) -> None:
    tensors = {name: value for name, value in parted().items() if not name.startswith("val")}
    dataset = load_dataset(write(tmp_path / f"a{suffix}", tensors))
    assert dataset.counts("train") == [3] * 3 and dataset.counts("val") == [1] * 3 and dataset.counts("test") == [4] * 3


def test_of_several_draws_the_largest_trains(tmp_path: Path) -> None:
    tensors = parted()
    for shots in (1, 16, 4):
        tensors[f"train_{shots}_features"] = tensors["train_features"] + shots
        tensors[f"train_{shots}_labels"] = tensors["train_labels"].clone()
    wanted = tensors["train_16_features"]
    del tensors["train_features"], tensors["train_labels"]
    dataset = load_dataset(write(tmp_path / "a.safetensors", tensors))
    assert torch.equal(rows(dataset, "train"), wanted)
    assert any("left out: train_1_features, train_1_labels, train_4_features" in note for note in dataset.notes)


@pytest.mark.parametrize("kind", ["numbers", "text", "metadata"])
def test_splits_are_numbers_or_words(tmp_path: Path, kind: str) -> None:
    numbers = np.array([0, 0, 1, 2, 2] * 6)
    words = np.array(["train", "dev", "Test"])[numbers]
    tensors = plain()
    if kind == "metadata":
        path = write(tmp_path / "a.safetensors", tensors, {"splits": json.dumps(words.tolist())})
    elif kind == "text":
        path = write(tmp_path / "a.npz", {**tensors, "splits": words})
    else:
        path = write(tmp_path / "a.safetensors", {**tensors, "split": torch.from_numpy(numbers).to(torch.uint8)})
    dataset = load_dataset(path)
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [12, 6, 12]
    assert all(numbers[row.index] == 2 for row in dataset.test)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["metadata", "array", "bytes"])
def test_class_names_scale_and_negatives(tmp_path: Path, kind: str) -> None:
    names = ["red_kite", "rook", "Krähe"]
    tensors: dict[str, Any] = {**plain(), "logit_scale": torch.tensor(50.0), "negative_text": torch.ones(3, WIDTH)}
    if kind == "metadata":
        path = write(tmp_path / "a.safetensors", tensors, {"class_names": json.dumps(names)})
    else:
        listed = np.array(names) if kind == "array" else np.array([name.encode() for name in names])
        path = write(tmp_path / "a.npz", {**tensors, "classnames": listed})
    dataset = load_dataset(path)
    assert dataset.class_names == ("red kite", "rook", "Krähe") and dataset.given is not None
    assert dataset.given.negatives is not None and bool((dataset.given.negatives == 1).all())
    assert dataset.given.logit_scale == 50 and dataset.notes == ()


def test_text_follows_the_names_in_another_order(tmp_path: Path) -> None:
    names = {"class_names": json.dumps(["a", "b", "c"])}
    dataset = load_dataset(write(tmp_path / "a.safetensors", plain(), names))
    aligned = dataset.with_classes(["c", "a", "b"])
    assert aligned is not None and aligned.given is not None and aligned.given.text is not None
    text = aligned.given.of_classes(aligned.given.text, aligned.class_names)
    assert torch.equal(text, plain()["text_features"][[2, 0, 1]])
    assert torch.equal(rows(aligned, "train"), rows(dataset, "train"))
    assert [row.label for row in aligned.train] == [(row.label + 1) % 3 for row in dataset.train]


def test_halves_doubles_and_foreign_bytes_are_read(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        tensors = {name: t.to(dtype) if t.is_floating_point() else t.short() for name, t in plain().items()}
        dataset = load_dataset(write(tmp_path / "a.safetensors", tensors))
        assert rows(dataset, "train").dtype == torch.float32
    swapped = {name: value.numpy().astype(value.numpy().dtype.newbyteorder()) for name, value in plain().items()}
    dataset = load_dataset(write(tmp_path / "a.npz", swapped))
    assert dataset.given is not None and dataset.given.text is not None
    assert torch.equal(dataset.given.text, plain()["text_features"])


def changed(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**plain(), **changes}.items() if value is not None}


def with_value(name: str, index: tuple[int, ...], value: float) -> torch.Tensor:
    tensor = plain()[name].clone()
    tensor[index] = value
    return tensor


WRONG = {
    "no images": (changed(image_features=None), r"has no tensor 'image_features'"),
    "no labels": (changed(labels=None), r"has no tensor 'labels'"),
    "negatives without text": (
        changed(text_features=None, negative_text=torch.ones(3, WIDTH)),
        r"has negative_text without text_features: give both or neither",
    ),
    "a label beyond all rows": (
        changed(text_features=None, labels=with_value("labels", (4,), 30)),
        r"labels holds 30 at index 4 but there are 30 classes: use 0 to 29",
    ),
    "widths without text": (
        {**without_text(parted()), "val_features": torch.ones(12, 4)},
        r"val_features is 4 wide but train_features is 8 wide",
    ),
    "a vector": (changed(image_features=torch.ones(30)), r"image_features is float32 \[30\]: give a matrix"),
    "whole numbers": (changed(image_features=torch.ones(30, WIDTH).int()), r"image_features is int32 \[30, 8\]"),
    "NaN": (changed(image_features=with_value("image_features", (3, 2), float("nan"))), r"holds NaN at index \[3, 2\]"),
    "infinite": (changed(text_features=with_value("text_features", (1, 0), float("inf"))), r"text_features holds inf"),
    "a zero row": (
        changed(image_features=with_value("image_features", (7,), 0.0)),
        r"features row 7 has norm zero",
    ),
    "width": (changed(text_features=torch.ones(3, 5)), r"image_features is 8 wide but text_features is 5 wide"),
    "too few labels": (
        changed(labels=torch.zeros(29).long()),
        r"labels is int64 \[29\]: give one label",
    ),
    "a label too large": (changed(labels=with_value("labels", (4,), 3)), r"labels holds 3 at index 4 .* use 0 to 2"),
    "a negative label": (changed(labels=with_value("labels", (4,), -1)), r"labels holds -1 at index 4"),
    "labels of floats": (changed(labels=torch.zeros(30)), r"labels is float32 \[30\]: give integer"),
    "negatives of others": (changed(negative_text=torch.ones(2, WIDTH)), r"negative_text has 2 rows for 3 classes"),
    "negative width": (changed(negative_text=torch.ones(3, 4)), r"negative_text is 4 wide but text_features is 8"),
    "one class": (changed(text_features=torch.ones(1, WIDTH), labels=torch.zeros(30).long()), r"needs at least two"),
    "a scale of nothing": (changed(logit_scale=torch.tensor(0.0)), r"logit_scale is 0\.0: give one finite positive"),
    "several scales": (changed(logit_scale=torch.ones(2)), r"logit_scale is \[1\.0, 1\.0\]"),
    "a split of no name": (changed(splits=torch.full((30,), 3)), r"splits holds 3: give 0, 1, 2 or train, val, test"),
    "too few splits": (changed(splits=torch.zeros(4).int()), r"splits has 4 entries for 30 rows"),
    "both layouts": ({**plain(), **parted()}, r"holds both image_features and train_features"),
    "a part without labels": (
        {name: value for name, value in parted().items() if name != "val_labels"},
        r"has no tensor 'val_labels'",
    ),
    "a part of another width": ({**parted(), "test_features": torch.ones(12, 4)}, r"test_features is 4 wide"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_a_sentence_with_file_and_tensor(tmp_path: Path, suffix: str, what: str) -> None:
    tensors, words = WRONG[what]
    path = write(tmp_path / f"given{suffix}", tensors)
    with pytest.raises(FileError, match=words) as caught:
        load_dataset(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert not check_dataset(path, progress=False).ok


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ('["a", "b"]', "class names are 2 entries for 3 classes"),
        ('["a", "b", 3]', "give a text a class"),
        ('["a", "b", "a"]', "two classes called 'a'"),
        ('{"a": 1}', "class_names in its metadata is a dict"),
        ("a, b, c", "is not valid JSON"),
    ],
)
def test_class_names_that_are_none(tmp_path: Path, names: str, words: str) -> None:
    path = write(tmp_path / "a.safetensors", plain(), {"class_names": names})
    with pytest.raises(FileError, match=words) as caught:
        load_dataset(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": np.array(["a", "b", None], dtype=object)}, "'class_names', which is no plain array .*pickles"),
        ({"labels": np.array(["a"] * 30)}, "labels holds text: give numbers"),
        ({"image_features": np.ones((30, WIDTH), dtype=np.complex64)}, r"image_features is complex64"),
        ({"image_features": np.zeros(30, dtype=[("x", "f4")])}, "image_features has dtype .*: give floats or integers"),
        ({"splits": np.full((30, 2), "test")}, r"splits has shape \[30, 2\]: give a list"),
    ],
)
def test_arrays_that_are_no_tensors(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "a.npz", {**plain(), **changes})
    with pytest.raises(FileError, match=words) as caught:
        load_dataset(path)
    assert str(caught.value).startswith(str(path))


def test_damaged_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.npz", plain())
    whole = path.read_bytes()
    for content in (b"", b"PK\x03\x04", whole[:100], whole[: len(whole) // 2], whole[:200] + b"\0" * 400 + whole[600:]):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"a\.npz") as caught:
            load_dataset(path)
        assert "\n" not in str(caught.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image_features.npy", b"no array")
    with pytest.raises(FileError, match="'image_features', which is no array"):
        load_dataset(path)
    with open(path, "wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(FileError, match="holds no named arrays"):
        load_dataset(path)
    path.write_bytes(whole)
    monkeypatch.setattr(files, "MOST_ARRAYS", 1000)
    with pytest.raises(FileError, match=r"bytes of arrays, more than the 1,000 that are read"):
        load_dataset(path)


def test_an_archive_is_not_unpacked_before_its_size_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of zeros takes a megabyte on the disk."""
    monkeypatch.setattr(files, "MOST_ARRAYS", 1 << 20)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, image_features=np.zeros((1 << 12, 1 << 8), dtype=np.float32))
    assert path.stat().st_size < 1 << 14
    with pytest.raises(FileError, match="more than the 1,048,576 that are read"):
        load_dataset(path)


def test_equal_rows_in_two_splits_are_found(tmp_path: Path) -> None:
    tensors = parted()
    tensors["test_features"][0] = tensors["train_features"][5]
    report = check_dataset(write(tmp_path / "a.safetensors", tensors), progress=False)
    ((first, second),) = report.duplicates
    assert (first.name, second.name) == ("5", "0") and not report.ok


def test_prompts_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", plain())
    with pytest.raises(InputError, match=r"templates is given, but .* holds its class texts already"):
        load_dataset(path, templates=["a {}."])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2"])
def test_labels_and_splits_are_whole_numbers_of_any_size(tmp_path: Path, suffix: str, dtype: str) -> None:
    labels = torch.from_numpy(plain()["labels"].numpy().astype(dtype))
    splits = torch.from_numpy(np.array([0, 1, 2] * 10).astype(dtype))
    dataset = load_dataset(write(tmp_path / f"a{suffix}", {**plain(), "labels": labels, "splits": splits}))
    assert [row.label for row in dataset.test] == [2] * 10


@pytest.mark.parametrize("layout", [plain, parted])
def test_class_text_may_be_missing(tmp_path: Path, suffix: str, layout: Any) -> None:
    dataset = load_dataset(write(tmp_path / f"a{suffix}", without_text(layout())))
    given = dataset.given
    assert given is not None and given.text is None and given.negatives is None and given.width == WIDTH
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert dataset.notes == ("no class text: only methods that can do without can be fitted",)
    with_text = load_dataset(write(tmp_path / f"b{suffix}", layout()))
    for split in ("train", "val", "test"):
        assert torch.equal(rows(dataset, split), rows(with_text, split))
    assert check_dataset(tmp_path / f"a{suffix}", progress=False).ok
    with pytest.raises(InputError, match=r"templates is given, but .* holds features and no encoder of texts"):
        load_dataset(tmp_path / f"a{suffix}", templates=["a {}."])


def test_without_text_names_tell_the_classes(tmp_path: Path) -> None:
    tensors = changed(text_features=None)
    names = {"class_names": json.dumps(["a", "b", "c", "d"])}
    dataset = load_dataset(write(tmp_path / "a.safetensors", tensors, names))
    assert dataset.class_names == ("a", "b", "c", "d")
    with pytest.raises(FileError, match=r"labels holds 2 at index 2 but there are 2 classes"):
        load_dataset(write(tmp_path / "b.safetensors", tensors, {"class_names": '["a", "b"]'}))


def test_labels_of_few_bits_count_beyond_them(tmp_path: Path) -> None:
    """An int8 cannot hold the number of classes."""
    labels = (torch.arange(300) % 100).to(torch.int8)
    tensors = {"features": torch.randn(300, WIDTH), "labels": labels, "text": torch.randn(150, WIDTH)}
    assert len(load_dataset(write(tmp_path / "a.safetensors", tensors)).class_names) == 150
    del tensors["text"]
    assert len(load_dataset(write(tmp_path / "b.safetensors", tensors)).class_names) == 100
