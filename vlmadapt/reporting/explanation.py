"""From a prediction with votes to its evidence picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vlmadapt.classifier import Prediction, Support
from vlmadapt.errors import FileError
from vlmadapt.pictures import read
from vlmadapt.pictures.read import decode
from vlmadapt.pictures.thumbnails import Thumbnails
from vlmadapt.provenance.means import chance
from vlmadapt.reporting.evidence import Witness, draw_evidence


def draw_prediction(prediction: Prediction, path: str | Path, thumbnails: Thumbnails | None = None) -> Path:
    """Draw ``prediction`` beside the support pictures that voted; of one that is gone its thumbnail, else a frame."""
    name, certainty = prediction.classes[0]
    witnesses = [
        Witness(_open_or_none(vote.support, thumbnails), vote.class_name, vote.share, agrees=vote.class_name == name)
        for vote in prediction.votes
    ]
    totals = dict(prediction.class_votes)
    heading = f"of the whole vote; {name} in all: {100 * totals[name]:.1f} %" if name in totals else "of the whole vote"
    subtitle = f"{chance(certainty)} · {prediction.path.name}"
    return draw_evidence(read(prediction.path), name, subtitle, witnesses, path, f"and their share {heading}")


def _open_or_none(support: Support, thumbnails: Thumbnails | None) -> Image.Image | None:
    try:
        return read(support.path)
    except FileError:
        kept = None if thumbnails is None else thumbnails.of(support.name)
        return None if kept is None else decode(kept, support.path)
