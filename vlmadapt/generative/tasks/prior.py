"""What is right most often: what must be beaten by whatever claims to look at pictures. Ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vlmadapt.generative.data.records import Record


def prior_predictions(train: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """For each of ``records`` the commonest answer, label or caption of ``train``, among its type of question if that
    is known there; of equal ones the first by the alphabet. Neither pictures nor words of questions are looked at."""
    counted: dict[str, Counter[str]] = {"": Counter()}
    for record in train:
        for kind in {"", record.kind}:
            counted.setdefault(kind, Counter()).update(_right(record))
    commonest = {kind: min(found, key=lambda text: (-found[text], text)) for kind, found in counted.items()}
    return [commonest.get(record.kind, commonest[""]) for record in records]


def _right(record: Record) -> dict[str, int]:
    if record.label:
        return {record.label: 1}
    return dict(record.answers) or dict.fromkeys(record.captions, 1)
