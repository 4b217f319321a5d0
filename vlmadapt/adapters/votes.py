"""Which cached samples decided: the explanation that only cache methods can give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmadapt.errors import InputError


@dataclass(frozen=True)
class Vote:
    """One cached sample's part in the scores of one query.

    support_index: row of the sample in the features that ``fit`` was given; label, class_name: its class.
    affinity: its entry of ``A [B, n]``, both streams fused where there are two.
    class_share: ``affinity`` over the class score ``S[b, label]``, in [0, 1].
    stream: ``"image"`` or ``"text"``, whichever contributed more to ``affinity``.
    """

    support_index: int
    label: int
    class_name: str
    affinity: float
    class_share: float
    stream: str


def check_top(top: object) -> None:
    """Raise :class:`InputError` unless ``top`` is a whole number of at least 1."""
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise InputError(f"top is {top!r}: give the number of votes to list, at least 1.")


def top_votes(
    affinity: Tensor,
    text_part: Tensor | None,
    labels: Tensor,
    support_index: Tensor,
    class_names: Sequence[str],
    top: int,
) -> list[list[Vote]]:
    """The ``top`` largest affinities of each query; equal ones in the order of ``support_index``.

    affinity, text_part: ``[B, n]``; ``text_part`` is what the text stream contributed. labels, support_index: ``[n]``.
    """
    affinity = affinity.cpu()
    labels, support_index = labels.cpu(), support_index.cpu()
    class_score = affinity.new_zeros(len(affinity), len(class_names)).index_add(1, labels, affinity)
    by_index = torch.argsort(support_index)
    explained = []
    for row in range(len(affinity)):
        order = by_index[torch.argsort(affinity[row, by_index], descending=True, stable=True)][:top]
        votes = []
        for entry in order.tolist():
            label, value = int(labels[entry]), float(affinity[row, entry])
            mostly_text = text_part is not None and float(text_part[row, entry]) > value / 2
            votes.append(
                Vote(
                    support_index=int(support_index[entry]),
                    label=label,
                    class_name=class_names[label],
                    affinity=value,
                    class_share=float(affinity[row, entry] / class_score[row, label].clamp(min=1e-30)),
                    stream="text" if mostly_text else "image",
                )
            )
        explained.append(votes)
    return explained
