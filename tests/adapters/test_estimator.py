"""``FewShotClassifier`` in scikit-learn's own tools."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from tests.experiments.world import COLOURS, ColourEncoder, make_world
from vlmadapt import FewShotClassifier
from vlmadapt.errors import InputError

EXPECTED_FAILED_CHECKS = {
    "check_estimators_dtypes": "rounds features to integers: a row of zeros has no direction and is refused"
}


@pytest.fixture(scope="module")
def blobs() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    centres = random.normal(size=(3, 12))
    labels = np.repeat([0, 1, 2], 12)
    return centres[labels] + 0.4 * random.normal(size=(36, 12)), np.array(["hen", "cat", "dog"])[labels]


@pytest.mark.filterwarnings("ignore")
def test_it_passes_the_checks_of_scikit_learn() -> None:
    checks = check_estimator(FewShotClassifier("ncm"), on_fail=None, expected_failed_checks=EXPECTED_FAILED_CHECKS)
    failed = {check["check_name"]: check["exception"] for check in checks if check["status"] == "failed"}
    assert not failed
    assert [check["check_name"] for check in checks if check["status"] == "xfail"] == list(EXPECTED_FAILED_CHECKS)
    assert sum(check["status"] == "passed" for check in checks) > 40


@pytest.mark.parametrize("adapter", ["auto", "gda", "tip-adapter", "linear-probe"])
def test_it_fits_predicts_and_keeps_the_kind_of_the_classes(adapter: str, blobs: Any) -> None:
    features, names = blobs
    model = FewShotClassifier(adapter).fit(features, names)
    assert model.classes_.tolist() == ["cat", "dog", "hen"] and model.n_features_in_ == 12
    assert model.score(features, names) > 0.9
    chances = model.predict_proba(features)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
    assert (model.classes_[chances.argmax(1)] == model.predict(features)).all()
    assert model.decision_function(features).shape == (36, 3)
    numbers = FewShotClassifier("ncm").fit(features, np.unique(names, return_inverse=True)[1] + 10)
    assert set(numbers.predict(features)) == {10, 11, 12}


def test_grid_search_pipeline_and_cross_validation(blobs: Any) -> None:
    features, names = blobs
    pipeline = make_pipeline(FunctionTransformer(lambda x: x - x.mean(0)), FewShotClassifier("ncm"))
    assert cross_val_score(pipeline, features, names, cv=3).mean() > 0.8
    grid = {"adapter": ["ncm", "gda"], "folds": [0, 3]}
    search = GridSearchCV(FewShotClassifier(), grid, cv=2).fit(features, names)
    assert search.best_score_ > 0.8 and set(search.best_params_) == set(grid)
    deep = GridSearchCV(pipeline, {"fewshotclassifier__settings": [None, {"centre": True}]}, cv=2)
    assert deep.fit(features, names).best_score_ > 0.8


def test_probabilities_are_calibrated_once_more(blobs: Any) -> None:
    features, names = blobs
    model = CalibratedClassifierCV(FewShotClassifier("ncm"), cv=3).fit(features, names)
    assert model.predict_proba(features).shape == (36, 3) and model.score(features, names) > 0.9


def test_copies_are_equal(blobs: Any) -> None:
    features, names = blobs
    encoder = ColourEncoder()
    model = FewShotClassifier("tip-adapter", encoder=encoder, text_features=np.eye(3, 12)).fit(features, names)
    # As scikit-learn's own processes get it, with n_jobs=2; the package itself reads no pickle (tests/test_pickles.py).
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(twin.predict_proba(features), model.predict_proba(features))
    fresh = clone(model)
    assert (
        not hasattr(fresh, "adapter_") and fresh.get_params()["adapter"] == "tip-adapter" and fresh.encoder is encoder
    )


def test_pictures_are_taken_where_there_is_an_encoder(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    paths = sorted((world / "train").rglob("*.png"))
    names = [path.parent.name for path in paths]
    model = FewShotClassifier("tip-adapter", encoder=ColourEncoder())
    scores = cross_val_score(model, paths, names, cv=2)
    assert scores.mean() > 0.4
    model.fit([str(path) for path in paths], names)
    opened = [Image.open(path) for path in paths]
    assert (model.predict(opened) == model.predict(np.array([str(path) for path in paths]))).all()
    assert model.adapter_.has_text and set(model.classes_) == set(COLOURS)


def test_bad_arguments_are_named(blobs: Any) -> None:
    features, names = blobs
    zeros = features.copy()
    zeros[4] = 0
    cases: list[tuple[FewShotClassifier, Any, Any, str]] = [
        (FewShotClassifier("tip"), features, names, "no adapter 'tip'"),
        (FewShotClassifier("coop"), features, names, "coop needs class text"),
        (FewShotClassifier("ncm", {"center": 1}), features, names, "no field 'center'"),
        (FewShotClassifier("ncm", folds=1), features, names, "folds is 1"),
        (FewShotClassifier("ncm", text_features=torch.eye(3)), features, names, "text_features is 3 wide but X is 12"),
        (FewShotClassifier("ncm"), features, ["cat"] * 36, "y holds one class, 'cat'"),
        (FewShotClassifier("ncm"), zeros, names, "features row 4 has norm zero"),
    ]
    for model, given, labels, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            model.fit(given, labels)
