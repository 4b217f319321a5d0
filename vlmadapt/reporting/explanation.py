"""From a prediction with votes to its evidence picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vlmadapt.classifier import Prediction
from vlmadapt.errors import FileError
from vlmadapt.pictures import read
from vlmadapt.provenance.means import chance
from vlmadapt.reporting.evidence import Witness, draw_evidence


def draw_prediction(prediction: Prediction, path: str | Path) -> Path:
    """Draw ``prediction`` beside the support pictures that voted; one that is gone is drawn as an empty frame."""
    name, certainty = prediction.classes[0]
    witnesses = [
        Witness(_open_or_none(vote.support.path), vote.class_name, vote.share, agrees=vote.class_name == name)
        for vote in prediction.votes
    ]
    totals = dict(prediction.class_votes)
    heading = f"of the whole vote; {name} in all: {100 * totals[name]:.1f} %" if name in totals else "of the whole vote"
    subtitle = f"{chance(certainty)} · {prediction.path.name}"
    return draw_evidence(read(prediction.path), name, subtitle, witnesses, path, f"and their share {heading}")


def _open_or_none(path: Path) -> Image.Image | None:
    try:
        return read(path)
    except FileError:
        return None
