"""Predictions for many pictures, of which some may be bad: one bad picture costs itself, not the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from vlmadapt.errors import FileError, InputError
from vlmadapt.pictures import read

if TYPE_CHECKING:
    from vlmadapt.classifier import Classifier, Prediction
    from vlmadapt.data import Extraction

AT_ONCE = 1024  # pictures whose features and votes are in memory together


@dataclass(frozen=True)
class Failure:
    """A picture without a prediction, and the sentence that says why."""

    path: Path
    reason: str


def predict_each(
    classifier: Classifier,
    paths: Sequence[Path],
    extraction: Extraction,
    top: int = 3,
    votes: int = 0,
    abstain: float | None = None,
) -> Iterator[Prediction | Failure]:
    """:meth:`Classifier.predict` of each picture in turn, or why there is none; ``AT_ONCE`` are encoded together.

    Raises :class:`InputError` when ``votes`` is asked of an adapter that keeps no cache, and ``abstain`` of one that
    was fitted without held-out samples.
    """
    for start in range(0, len(paths), AT_ONCE):
        chunk = paths[start : start + AT_ONCE]
        failures: dict[Path, Failure] = {}
        features = _features(classifier, chunk, extraction, failures)
        good = [path for path in chunk if path not in failures]
        found = iter(classifier.predict_features(good, features, top, votes, abstain) if features is not None else ())
        for path in chunk:
            yield failures[path] if path in failures else next(found)


def _features(
    classifier: Classifier, paths: Sequence[Path], extraction: Extraction, failures: dict[Path, Failure]
) -> Tensor | None:
    """Features ``[n, D]`` of the good ones of ``paths``, None without any; the others are added to ``failures``."""
    while True:
        good = [path for path in paths if path not in failures]
        if not good:
            return None
        try:
            return classifier.features(good, extraction)
        except (FileError, InputError) as error:
            known = len(failures)
            for path in good:
                reason = _trouble(classifier, path, extraction, looks_at_features=isinstance(error, InputError))
                if reason is not None:
                    failures[path] = Failure(path, reason)
            if len(failures) == known:
                raise  # nothing that any picture is to blame for


def _trouble(classifier: Classifier, path: Path, extraction: Extraction, looks_at_features: bool) -> str | None:
    try:
        if looks_at_features:
            classifier.features([path], extraction)
        else:
            read(path)
    except FileError as error:
        return str(error)
    except InputError as error:
        if str(path) not in str(error):
            raise  # not this picture's fault
        return str(error)
    return None
