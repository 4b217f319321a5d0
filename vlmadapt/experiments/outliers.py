"""Pictures that lie far from their class and nearer to another one: wrong labels, mostly. Ours.

    own[i]    = cosine of picture i and the mean of the others of its class
    margin[i] = own[i] - max over the other classes c of the cosine of picture i and the mean of c

A picture is far where its margin is below 0 and ``FAR`` robust deviations (1.4826 times the median distance from the
median) below the median margin of its class. Classes of fewer than ``LEAST`` pictures have no such spread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlmadapt.data import CheckReport, check_dataset
from vlmadapt.data.load import load_quietly
from vlmadapt.data.types import SPLITS
from vlmadapt.errors import shown
from vlmadapt.experiments.features import FeatureTable
from vlmadapt.experiments.sources import columns_of, extraction_of, open_encoder

if TYPE_CHECKING:
    from vlmadapt.experiments.options import CheckOptions

FAR, LEAST = 3.0, 4
SHOWN = 20  # pictures named
FLATTEST = 1e-6
DEVIATION = 1.4826  # of a normal distribution over the median distance from its median


class Far(NamedTuple):
    """Sample ``row`` looks like class ``like``, nearer than its own by ``by`` (a difference of cosines)."""

    row: int
    like: int
    by: float


def far_from_their_class(features: Tensor, labels: Tensor, classes: int) -> list[Far]:
    """Those of normalised ``features [n, D]`` that are far from the others of ``labels [n]``, the farthest first."""
    sums = features.new_zeros(classes, features.shape[1]).index_add(0, labels, features)
    own = (normalize(sums[labels] - features, dim=-1) * features).sum(-1)
    similar = features @ normalize(sums, dim=-1).T
    similar[torch.arange(len(labels)), labels] = -2.0
    other, like = similar.max(-1)
    margin = own - other
    found = []
    for label in range(classes):
        rows = torch.nonzero(labels == label).squeeze(-1)
        if len(rows) < LEAST:
            continue
        away = margin[rows] - margin[rows].median()
        spread = (DEVIATION * away.abs().median()).clamp(min=FLATTEST)
        far = (margin[rows] < 0) & (away / spread < -FAR)
        found += [Far(row, int(like[row]), -float(margin[row])) for row in rows[far].tolist()]
    return sorted(found, key=lambda one: -one.by)


def check(data: str, options: CheckOptions) -> CheckReport:
    """:func:`vlmadapt.data.check_dataset`, and with ``outliers`` hints about pictures far from their class.

    Raises what opening the encoder raises; what is wrong with the data is in the report.
    """
    report = check_dataset(
        data,
        options.split_seed,
        options.root,
        domain=options.domain,
        test_domain=options.test_domain,
        columns=columns_of(options),
    )
    if not options.outliers:
        return report
    if not report.class_names or report.missing or report.unreadable:
        hint = "pictures far from their class are looked for once all can be read"
        return replace(report, hints=(*report.hints, hint))
    # The report has the doubts of which other ways of loading warn.
    dataset = load_quietly(
        data,
        options.split_seed,
        options.root,
        domain=options.domain,
        test_domain=options.test_domain,
        columns=columns_of(options),
    )
    samples = [sample for split in SPLITS for sample in dataset.split(split)]
    seen = FeatureTable(open_encoder(options, dataset), samples, extraction_of(options, dataset)).of(samples)
    features = normalize(seen.features.cpu().float(), dim=-1)
    found = far_from_their_class(features, seen.labels.cpu(), len(dataset.class_names))
    hints = [
        f"{shown(samples[one.row].path)} is far from the others of {dataset.class_names[samples[one.row].label]!r} and "
        f"looks more like {dataset.class_names[one.like]!r}: look at its label"
        for one in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        hints.append(f"{len(found) - SHOWN} more pictures are far from their class")
    return replace(report, hints=(*report.hints, *hints))
