"""What the server says of a picture, from the bytes of its file."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

from vlmadapt.backbones.given import GivenEncoder
from vlmadapt.classifier import Classifier, NamedVote
from vlmadapt.data import Extraction
from vlmadapt.errors import FileError, InputError
from vlmadapt.pictures import decode
from vlmadapt.pictures.read import size_of
from vlmadapt.pictures.thumbnails import thumbnail_or_none
from vlmadapt.provenance.versions import public_name

MOST_PIXELS = 50_000_000
NAME = "the picture"  # whatever its file is called
_NOWHERE = Path(NAME)


class Answers:
    """Predictions of one ``classifier``, one at a time. ``abstain`` as in :meth:`Classifier.predict`.

    Raises :class:`InputError` for a classifier without a picture tower, and for ``abstain`` where nothing was held out.
    """

    def __init__(self, classifier: Classifier, abstain: float | None = None) -> None:
        if isinstance(classifier.encoder, GivenEncoder):
            raise InputError(
                f"the classifier was fitted on features of {classifier.encoder.name!r} and cannot see pictures: serve "
                "one that was fitted on pictures."
            )
        if abstain is not None:
            classifier.adapter.least_certainty(abstain)
        self._classifier = classifier
        self._abstain = abstain
        self._one = threading.Lock()
        self._extraction = Extraction(batch_size=1, precision=classifier.run.precision, progress=False)
        self.encoder = classifier.adapter.encoder_for(classifier.encoder)

    def about(self) -> dict[str, Any]:
        run = self._classifier.run
        return {
            "name": run.data.name,
            "adapter": run.adapter,
            "encoder": public_name(run.encoder.name),
            "shots": run.shots,
            "class_names": list(run.class_names),
            "explains": self._classifier.adapter.explains,
        }

    def predict(self, data: bytes, top: int = 3, votes: int = 5) -> dict[str, Any]:
        """Of the bytes of a picture's file. Raises :class:`FileError` for one that cannot be read, or is too large."""
        width, height = size_of(data, NAME) if data else (0, 0)
        if width * height > MOST_PIXELS:
            raise FileError(f"{NAME} has {width} x {height} pixels: give one of at most {MOST_PIXELS:,}.")
        picture = decode(data, NAME)
        classifier = self._classifier
        with self._one:
            features = self._extraction.extract(self.encoder, [picture])
            wanted = votes if classifier.adapter.explains else 0
            found = classifier.predict_features([_NOWHERE], features, top, wanted, self._abstain)[0]
            evidence = [self._evidence(vote) for vote in found.votes]
        return {
            "classes": [{"name": name, "probability": chance} for name, chance in found.classes],
            "abstained": found.abstained,
            "class_votes": [{"name": name, "share": share} for name, share in found.class_votes],
            "votes": evidence,
        }

    def _evidence(self, vote: NamedVote) -> dict[str, Any]:
        """A support picture's part; of where it lies nothing is told."""
        kept = self._classifier.thumbnails
        small = (None if kept is None else kept.of(vote.support.name)) or thumbnail_or_none(vote.support.path)
        picture = None if small is None else f"data:image/jpeg;base64,{base64.b64encode(small).decode('ascii')}"
        return {"class": vote.class_name, "share": vote.share, "picture": picture}
