"""The front door with features and pictures in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlmadapt
from tests.experiments.world import TIP, WIDTH, ColourEncoder, make_world
from vlmadapt.errors import InputError, MissingDependency

SETTINGS: Any = {"adapter": "tip-adapter", "settings": {"search_beta": [1, 4, 2], "search_alpha": [1, 4, 2]}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("data") / "world")


def listed(world: Path, split: str) -> tuple[list[Path], list[str]]:
    paths = sorted((world / split).rglob("*.png"))
    return paths, [path.parent.name for path in paths]


def encoded(paths: list[Path]) -> Any:
    encoder = ColourEncoder()
    return encoder.encode_images(torch.stack([encoder.transform(Image.open(path)) for path in paths])).numpy()


def test_features_pictures_and_paths_give_one_classifier(world: Path) -> None:
    paths, names = listed(world, "train")
    tests, wanted = listed(world, "test")
    features, tested = encoded(paths), encoded(tests)
    options: Any = {**SETTINGS, "encoder": ColourEncoder(), "shots": 3, "no_cache": True}
    of_features = vlmadapt.fit(features, names, **options)
    assert of_features.class_names == ("apple", "fish", "leaf", "sun") and of_features.adapter.has_text
    found = vlmadapt.evaluate(of_features, tested, wanted, no_cache=True)
    assert found.accuracy > 0.4 and len(found.pictures) == len(tests)
    assert vlmadapt.evaluate(of_features, tests, wanted, no_cache=True).accuracy == found.accuracy
    opened = [Image.open(path) for path in paths]
    pixels = np.stack([np.asarray(each) for each in opened])
    for data in ([str(path) for path in paths], opened, pixels):
        classifier = vlmadapt.fit(data, np.array(names), **options)
        assert vlmadapt.evaluate(classifier, tests, wanted, no_cache=True).accuracy > 0.4
    one = classifier.predict(tests[0])[0]
    assert one.path == tests[0]
    assert classifier.predict([Image.open(tests[0])])[0].classes == one.classes
    assert classifier.predict(str(tests[0]))[0].classes == one.classes
    rows = classifier.predict(tested[:2])
    assert rows[0].path == Path("row 0") and rows[0].classes[0][1] == pytest.approx(one.classes[0][1], abs=1e-5)
    with pytest.raises(InputError, match="were used to fit"):
        vlmadapt.evaluate(classifier, opened, names, no_cache=True)


def test_features_of_an_unknown_encoder_need_no_text(world: Path, tmp_path: Path) -> None:
    paths, names = listed(world, "train")
    labels = np.unique(names, return_inverse=True)[1]
    classifier = vlmadapt.fit(encoded(paths), labels, shots="all", out=tmp_path / "run", **SETTINGS)
    assert classifier.class_names == ("class 0", "class 1", "class 2", "class 3")
    tests, wanted = listed(world, "test")
    numbers = np.unique(wanted, return_inverse=True)[1].tolist()
    found = vlmadapt.evaluate(vlmadapt.Classifier.load(tmp_path / "run"), encoded(tests).tolist(), numbers)
    assert found.accuracy == vlmadapt.evaluate(classifier, encoded(tests), numbers).accuracy
    named = vlmadapt.fit(encoded(paths), labels, ["a", "b", "c", "d"], torch.eye(4, WIDTH), shots=2, **SETTINGS)
    assert named.class_names == ("a", "b", "c", "d") and named.adapter.has_text
    with pytest.raises(InputError, match="data is missing"):
        vlmadapt.evaluate(named)


def test_fewer_pictures_than_shots_are_all_taken_and_said(world: Path) -> None:
    paths, names = listed(world, "train")
    with pytest.warns(UserWarning, match=r"shots is 16, but class 'apple' has 5 .* taking all"):
        assert len(vlmadapt.fit(encoded(paths), names, **SETTINGS).support) == 20


def test_compare_has_a_data_frame_and_a_report(world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    paths, names = listed(world, "train")
    more, others = listed(world, "test")
    options: Any = {"adapters": [TIP, "ncm"], "shots": [1], "seeds": 2, "encoder": ColourEncoder(), "no_cache": True}
    results = vlmadapt.compare(encoded([*paths, *more]), [*names, *others], **options)
    assert results.dataset["name"] == "in-memory" and len(results.cells) == 4
    pandas = pytest.importorskip("pandas")
    frame = results.frame
    assert list(frame["method"]) == [cell.method for cell in results.cells]
    assert list(frame["test_accuracy"]) == [cell.accuracy for cell in results.cells]
    assert pandas.api.types.is_numeric_dtype(frame["seed"])
    page = vlmadapt.report(results, tmp_path / "page.html")
    assert "in-memory" in page.read_text(encoding="utf-8")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingDependency, match="pip install pandas"):
        results.frame  # noqa: B018


X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
Y = ["cat", "dog"] * 4
WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "no labels": ((X,), "labels is missing, and data is a ndarray"),
    "a number": ((3,), "data is a int: give a folder"),
    "nothing": ((), "data"),
    "an object": ((object(), Y), "data is a object: give a folder"),
    "labels of a folder": (("clipart", Y), "labels is given, but data is no features"),
    "names of a folder": (("clipart", None, ["a"]), "class_names is given, but data is no features"),
    "fewer labels": ((X, Y[:-1]), "labels has 7 elements: give one label for each of the 8"),
    "fewer numbers": ((X, [0, 1]), "labels is int64 \\[2\\]: give one label for each of the 8 feature rows"),
    "one class": ((X, ["cat"] * 8), "needs at least two"),
    "half numbers": ((X, [0.5] * 8), "labels is float32 \\[8\\]: give integer class numbers"),
    "numbers that are none": ((X, [0, 1] * 3 + [0, 999]), "labels holds 999 with 8 pictures"),
    "negative numbers": ((X, [0, 1] * 3 + [0, -1]), "labels holds -1"),
    "another name": ((X, Y, ["cat", "cow"]), "labels holds 'dog', which is no class: use one of cat, cow"),
    "NaN": ((np.where(X[0, 0] == X, np.nan, X), Y), "data holds NaN at index \\[0, 0\\]"),
    "text of another width": ((X, Y, None, np.eye(2, 5)), "text_features is 5 wide but data is 6 wide"),
    "text of more classes": ((X, Y, None, np.eye(3, 6)), "text_features has 3 rows for 2 classes"),
    "text of pictures": ((["a.png"] * 8, Y, None, np.eye(2, 6)), "text_features is given, but data are pictures"),
    "no pictures": (([], []), "data is empty"),
    "mixed": (([Path("a.png"), 3], Y[:2]), "data\\[1\\] is a int"),
    "floats as pixels": ((np.zeros((8, 4, 4, 3)), Y), "data is float64 \\[8, 4, 4, 3\\]: give features"),
    "a missing file": ((["nowhere.png"] * 4, Y[:4]), r"data\[0\] is 'nowhere.png', where there is no file"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:shots is 16")
def test_what_is_wrong_is_one_sentence(case: str) -> None:
    given, sentence = WRONG[case]
    with pytest.raises((ValueError, OSError, TypeError), match=sentence) as caught:
        vlmadapt.fit(
            *given,
            no_cache=True,
        )
    if case != "nothing":
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_features_of_another_width_than_the_encoder_are_refused() -> None:
    with pytest.raises(InputError, match="data is 6 wide but colours is 16 wide"):
        vlmadapt.fit(X, Y, encoder=ColourEncoder())
    classifier = vlmadapt.fit(X, Y, shots=2, **SETTINGS)
    with pytest.raises(InputError, match="paths is 5 wide but the classifier's encoder is 6 wide"):
        classifier.predict(X[:, :5])
    with pytest.raises(InputError, match="paths holds a object"):
        classifier.predict([object()])


def test_an_evaluation_has_a_report_and_nothing_else_has(world: Path, tmp_path: Path) -> None:
    paths, names = listed(world, "train")
    tests, wanted = listed(world, "test")
    classifier = vlmadapt.fit(paths, names, shots=2, encoder=ColourEncoder(), no_cache=True, **SETTINGS)
    found = vlmadapt.evaluate(classifier, [Image.open(path) for path in tests], wanted, no_cache=True)
    assert vlmadapt.report(found, tmp_path / "page.html").stat().st_size > 1000
    with pytest.raises(InputError, match=r"results is a dict: give what compare, evaluate or generative\.tune"):
        vlmadapt.report({}, tmp_path / "page.html")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"path is 'page\.pdf': name a \.html file"):
        vlmadapt.report(found, "page.pdf")
