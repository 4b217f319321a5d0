"""Any method as an estimator of scikit-learn, for ``Pipeline``, ``GridSearchCV``, ``cross_val_score``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from vlmadapt.adapters.images import encode_pictures, is_pictures, listed
from vlmadapt.adapters.no_text import NoText
from vlmadapt.adapters.registry import create_adapter
from vlmadapt.backbones import class_text_features
from vlmadapt.backbones.base import Encoder
from vlmadapt.checks import check_matrix
from vlmadapt.errors import InputError

LOGIT_SCALE = 100.0  # of all of OpenAI's encoders
TEMPLATES = ("a photo of a {}.",)
FOLDS = 4


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classes of rows of features, or of pictures where there is an encoder.

    adapter: a method by name (``vlmadapt adapters``). settings: its settings, as a dict. text_features: ``[C, D]``, of
        the classes in the order of ``classes_``, which is sorted. encoder: what :func:`vlmadapt.load_encoder` or
        :func:`vlmadapt.from_model` gives; then X may be paths or PIL images, and the classes' names are the text.
        templates: prompts for the names. logit_scale: of the encoder; 100 where there is none. folds: parts of the
        samples that are held out in turn to choose hyper-parameters and calibrate probabilities; 0 takes the defaults
        and calibrates nothing. random_state: a whole number, the seed.

    Without text, methods that need none can be used, among them the default. Rows are normalised: their directions
    count, not their lengths, and a row of zeros has none.

    Attributes: ``classes_`` ``[C]``, ``n_features_in_`` D, ``adapter_`` the fitted adapter.
    """

    def __init__(
        self,
        adapter: str = "auto",
        settings: Mapping[str, Any] | None = None,
        *,
        text_features: Any = None,
        encoder: Encoder | None = None,
        templates: Sequence[str] = TEMPLATES,
        logit_scale: float | None = None,
        folds: int = FOLDS,
        random_state: int = 0,
    ) -> None:
        self.adapter = adapter
        self.settings = settings
        self.text_features = text_features
        self.encoder = encoder
        self.templates = templates
        self.logit_scale = logit_scale
        self.folds = folds
        self.random_state = random_state

    def __sklearn_clone__(self) -> FewShotClassifier:
        """With the same encoder: it is frozen, and a copy for each fold would be one too many."""
        parameters = self.get_params(deep=False)
        kept = {name: value if name == "encoder" else clone(value, safe=False) for name, value in parameters.items()}
        return type(self)(**kept)

    def fit(self, X: Any, y: Any) -> FewShotClassifier:
        """Fit on ``X [n, D]``, or n pictures, and ``y [n]``, classes of any kind. Raises :class:`InputError`."""
        rows, y = self._rows(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y holds one class, {self.classes_.tolist()[0]!r}: a classifier needs at least two.")
        names = [str(name) for name in self.classes_]
        text = self._text(names, rows.shape[1])
        scale = self.logit_scale or (LOGIT_SCALE if self.encoder is None else self.encoder.logit_scale)
        adapter = create_adapter(self.adapter, text, scale, self.settings, class_names=names)
        target = torch.from_numpy(labels.astype(np.int64))
        if self.folds:
            adapter.fit_on_all(rows, target, folds=self.folds, seed=self.random_state)
        else:
            adapter.fit(rows, target, seed=self.random_state)
        self.adapter_ = adapter
        return self

    def _text(self, names: Sequence[str], width: int) -> Tensor | NoText:
        if self.text_features is not None:
            return check_matrix("text_features", self.text_features, width, "X")
        if self.encoder is None or not self.encoder.has_text:
            return NoText(len(names), width)
        return class_text_features(self.encoder, names, self.templates).cpu()

    def _rows(self, X: Any, y: Any = None) -> tuple[Tensor, Any]:
        """Features of what is given, float32 or float64 ``[n, D]``, and ``y`` checked; pictures are encoded."""
        if self.encoder is not None and is_pictures(X):
            X = encode_pictures("X", listed(X), self.encoder).cpu().numpy()
        fitting = y is not None
        options: dict[str, Any] = {"dtype": [np.float64, np.float32], "reset": fitting}
        if fitting:
            X, y = validate_data(self, X, y, **options)
        else:
            X = validate_data(self, X, **options)
        return torch.from_numpy(np.ascontiguousarray(X)), y

    def decision_function(self, X: Any) -> np.ndarray[Any, Any]:
        """Logits ``[n, C]``; of two classes, how much the second one's is above the first's, ``[n]``."""
        check_is_fitted(self)
        logits: np.ndarray[Any, Any] = self.adapter_.logits(self._rows(X)[0]).numpy()
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:
        """Probabilities ``[n, C]`` in the order of ``classes_``, calibrated on the samples that were held out."""
        check_is_fitted(self)
        chances: np.ndarray[Any, Any] = self.adapter_.predict_proba(self._rows(X)[0]).numpy()
        return chances

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """The class of each row or picture, ``[n]``, of the kind that ``y`` was."""
        check_is_fitted(self)
        found: np.ndarray[Any, Any] = self.classes_[self.adapter_.predict(self._rows(X)[0]).numpy()]
        return found
