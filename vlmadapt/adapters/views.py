"""Views of a picture as samples of their own. Ours.

Until a method learns, a picture is one sample, its views beside it: folds deal pictures, and a held-out one is judged
as it is. What learns then sees each view as a sample, at the ``position`` of the picture: by it a sample in training
sees no other view of itself, and votes are counted for pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlmadapt.adapters.checks import canonical_order
from vlmadapt.config import AdapterConfig
from vlmadapt.training import Samples

UNSEEN = -1000.0  # a logarithm: e to it is 0 in every type, while products with it stay finite


@dataclass(frozen=True, kw_only=True)
class ViewsConfig(AdapterConfig):
    each_view: bool = field(
        default=False,
        metadata={
            "help": "take every view of a training picture for a sample, not their mean (--views)",
            "later": True,
        },
    )


def spread(support: Samples) -> Samples:
    """Every view of every sample as a sample of its own, at the position of the sample."""
    if support.views is None:
        return support
    every = support.given
    count = every.shape[1]
    features = every.flatten(0, 1)
    order = canonical_order(features).to(features.device)
    return Samples(
        features[order],
        support.labels.repeat_interleave(count)[order],
        support.position.repeat_interleave(count)[order],
    )


def shares(support: Samples) -> Tensor:
    """``[n]`` float64: 1 over how many samples are views of the same picture, so that pictures have one vote each."""
    _, places, counts = support.position.unique(return_inverse=True, return_counts=True)
    return 1 / counts.double()[places]


def hide(queries: Tensor, keys: Tensor, own: Tensor, pictures: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    """Queries ``[B, D']`` and keys ``[n, D']`` of affinity 0 at ``beta`` where a key is of the query's own picture.

    own: int64 ``[B]``, picture of each query, -1 where it sees all keys. pictures: int64 ``[n]``, that of each key.
    One column more for each picture of the batch.
    """
    wanted, column = own.unique(return_inverse=True)
    ones = torch.nn.functional.one_hot(column, len(wanted)).to(queries.dtype)
    same = (pictures.unsqueeze(-1) == wanted).to(keys.dtype)
    return torch.cat([queries, ones], -1), torch.cat([keys, same * (UNSEEN / beta)], -1)
