"""What docs/adapters.md says of widened searches and of ``reweight``, on real CLIP features.

    python scripts/selection_evidence.py FOLDER [edges] [weights]

FOLDER as for ``make results REAL=FOLDER``; draws are others than those of the results. ``edges``: mean accuracy in %
and how many values lie on an edge, without and with wider ranges. ``weights``: accuracy in % at 4, 8 and 16 shots
with a quarter of the labels wrong, without and with ``reweight``.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from vlmadapt.adapters import Adapter, create_adapter
from vlmadapt.adapters.ranges import WIDENINGS
from vlmadapt.experiments.features import FewShotFeatures
from vlmadapt.experiments.given import LOGIT_SCALE, GivenFeatures
from vlmadapt.experiments.studies import REAL

DRAWS = (100, 101, 102)
SEARCHED = ("tip-adapter", "tip-adapter-f", "ncm", "gda", "proker", "linear-probe", "xmadapter", "hegraph")
WEIGHED = ("tip-adapter", "tip-adapter-f", "xmadapter")
WRONG = 0.25


def fitted(
    given: GivenFeatures, method: str, data: FewShotFeatures, labels: Tensor, seed: int, **settings: Any
) -> Adapter:
    adapter = create_adapter(method, given.text, LOGIT_SCALE, settings, negative_text_features=given.negatives)
    assert data.val is not None
    return adapter.fit(data.train.features, labels, data.val.features, data.val.labels, seed=seed)


def accuracy(adapter: Adapter, given: GivenFeatures) -> float:
    test = given.test()
    return 100 * float((adapter.predict(test.features) == test.labels).double().mean())


def edges(given: GivenFeatures) -> None:
    for method in SEARCHED:
        for widenings in (0, WIDENINGS):
            with mock.patch("vlmadapt.adapters.base.WIDENINGS", widenings):
                drawn = [(given.draw(shots, seed), seed) for shots in (1, 2, 4, 8, 16) for seed in DRAWS]
                found = [fitted(given, method, data, data.train.labels, seed) for data, seed in drawn]
            mean = statistics.fmean(accuracy(adapter, given) for adapter in found)
            on_edges = sum(len(adapter.at_edges()) for adapter in found)
            print(given.encoder, method, f"{widenings} widenings: {mean:.2f}, {on_edges} on an edge", flush=True)


def weights(given: GivenFeatures) -> None:
    for method in WEIGHED:
        for reweight in (False, True):
            row = []
            for shots in (4, 8, 16):
                parts = (
                    fitted(given, method, data, wrong, seed, reweight=reweight)
                    for data, wrong, seed in noisy(given, shots)
                )
                row.append(f"{statistics.fmean(accuracy(adapter, given) for adapter in parts):.1f}")
            print(given.encoder, method, f"reweight {reweight}:", *row, flush=True)


def noisy(given: GivenFeatures, shots: int) -> Iterator[tuple[FewShotFeatures, Tensor, int]]:
    """Each draw, with a share ``WRONG`` of its training labels moved to other classes."""
    classes = int(given.images.labels.max()) + 1
    for seed in DRAWS:
        data, generator = given.draw(shots, seed), torch.Generator().manual_seed(seed)
        labels = data.train.labels.clone()
        moved = torch.randperm(len(labels), generator=generator)[: int(WRONG * len(labels))]
        by = 1 + torch.randint(classes - 1, (len(moved),), generator=generator)
        labels[moved] = (labels[moved] + by) % classes
        yield data, labels, seed


def main() -> None:
    folder, *wanted = sys.argv[1:]
    for name, file, encoder in REAL[:2]:
        given = GivenFeatures.read(Path(folder) / file, name, encoder)
        for tell in (edges, weights):
            if not wanted or tell.__name__ in wanted:
                tell(given)


if __name__ == "__main__":
    main()
