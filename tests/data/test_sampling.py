import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from vlmadapt.data import Dataset, Sample, sample_shots
from vlmadapt.errors import InputError

ROOT = Path("/data")


def dataset(train, val=(6, 6), test=(1, 1), reverse=False):
    def samples(split, counts):
        made = [Sample(ROOT / f"{split}/{c}/{n}.png", c) for c, count in enumerate(counts) for n in range(count)]
        return tuple(reversed(made) if reverse else made)

    names = tuple(f"class {index}" for index in range(len(train)))
    parts = {"train": samples("train", train), "val": samples("val", val), "test": samples("test", test)}
    return Dataset("made-up", names, ("{}",), **parts, root=ROOT)


def labels(samples):
    return [sample.label for sample in samples]


def test_draw_is_pinned():
    """A changed draw would make old results incomparable: this hash may only change with the documentation."""
    split = sample_shots(dataset((9, 9)), 2, seed=1)
    assert [dataset((9, 9)).key(sample) for sample in split.train] == [
        "train/0/3.png",
        "train/0/1.png",
        "train/1/8.png",
        "train/1/0.png",
    ]
    assert split.split_hash == "d1b9a6c47eda34092ffe9cb346288790ae7582f48aff5a1eda9a391491b55c03"


def test_draw_ignores_order_and_other_classes():
    full = sample_shots(dataset((9, 9)), 4, seed=1)
    assert full == sample_shots(dataset((9, 9), reverse=True), 4, seed=1)
    other = sample_shots(dataset((9, 20)), 4, seed=1)
    assert full.train[:4] == other.train[:4]


def test_draws_are_nested_and_follow_the_seed():
    data = dataset((30, 30))
    draws = [set(sample_shots(data, shots, seed=2).train) for shots in (1, 2, 4, 8, 16)]
    assert all(small < large for small, large in pairwise(draws))
    assert draws[-1] != set(sample_shots(data, 16, seed=3).train)


@pytest.mark.parametrize(("shots", "val_shots"), [(1, 1), (2, 2), (4, 4), (8, 4)])
def test_counts_a_class(shots, val_shots):
    split = sample_shots(dataset((10, 12)), shots, seed=0)
    assert labels(split.train) == [0] * shots + [1] * shots
    assert labels(split.val) == [0] * val_shots + [1] * val_shots
    assert all("/val/" in str(sample.path) for sample in split.val)


def test_too_few_validation_pictures_gives_all():
    assert labels(sample_shots(dataset((5, 5), val=(1, 0)), 4, seed=0).val) == [0]


def test_more_shots_than_pictures():
    data = dataset((3, 9))
    with pytest.raises(InputError, match=r"shots is 4, but class 'class 0' has 3 training pictures: ask for at most 3"):
        sample_shots(data, 4, seed=0)
    with pytest.warns(UserWarning, match="class 'class 0' has 3 training pictures: taking all there are"):
        split = sample_shots(data, 4, seed=0, on_short="all")
    assert labels(split.train) == [0] * 3 + [1] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_shots(data, 3, seed=0, on_short="all")


@pytest.mark.parametrize("on_short", ["error", "all"])
def test_empty_class_is_named(on_short):
    with pytest.raises(InputError, match="class 'class 1' has no training pictures"):
        sample_shots(dataset((3, 0, 3), val=(1, 1, 1), test=(1, 1, 1)), 1, seed=0, on_short=on_short)


@pytest.mark.parametrize(
    ("shots", "seed", "on_short", "words"),
    [
        (0, 0, "error", "shots is 0"),
        (-1, 0, "error", "shots is -1"),
        (1.5, 0, "error", "shots is 1.5"),
        (True, 0, "error", "shots is True"),
        (1, "a", "error", "seed is 'a'"),
        (1, 0, "some", "on_short is 'some'"),
    ],
)
def test_bad_arguments(shots, seed, on_short, words):
    with pytest.raises(InputError, match=words):
        sample_shots(dataset((3, 3)), shots, seed, on_short)
