"""What docs/results.md and docs/cli.md say of ``auto`` beside the tables, on real CLIP features.

    python scripts/auto_evidence.py FOLDER [same] [unknown]
    python scripts/auto_evidence.py DATA [SEEDS]

FOLDER as for ``make results REAL=FOLDER``. ``same``: the single methods fitted on support and validation pictures
together, at their defaults, five seeds. ``unknown``: five of the classes are held out of ``auto``, three seeds.
DATA: a built-in set, seen by the embedded encoder; the same as ``same``, three seeds where none are given.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vlmadapt.adapters import create_adapter
from vlmadapt.backbones import load_encoder
from vlmadapt.data import Extraction, FeatureCache, load_dataset, sample_shots
from vlmadapt.data.types import Sample
from vlmadapt.experiments.features import ClassTexts, FeatureTable, FewShotFeatures
from vlmadapt.experiments.given import LOGIT_SCALE, GivenFeatures
from vlmadapt.experiments.studies import REAL, REAL_METHODS
from vlmadapt.training import Samples

KNOWN, RATE = 14, 0.1


def same(given: GivenFeatures) -> None:
    texts = given.text, LOGIT_SCALE, given.negatives
    print_singles(given.encoder, texts, given.draw, given.test(), (1, 2, 4, 8, 16), 5)


def same_of_pictures(data: str, seeds: int) -> None:
    encoder, dataset = load_encoder("embedded", engine="torch"), load_dataset(data)
    extraction, words = Extraction(cache=FeatureCache(), progress=False), ClassTexts(encoder, dataset)

    def table(samples: Sequence[Sample]) -> Samples:
        return FeatureTable(encoder, samples, extraction).of(samples)

    def draw(shots: int, seed: int) -> FewShotFeatures:
        split = sample_shots(dataset, shots, seed)
        return FewShotFeatures(table(split.train), table(split.val))

    least = min(dataset.counts("train"))
    shots = [count for count in (1, 2, 4, 8, 16) if count <= least]
    print_singles(
        data, (words.features, encoder.logit_scale, words.negative_features), draw, table(dataset.test), shots, seeds
    )


def print_singles(
    name: str,
    texts: tuple[Any, float, Any],
    draw: Callable[[int, int], FewShotFeatures],
    test: Samples,
    shots: Sequence[int],
    seeds: int,
) -> None:
    """Test accuracy of each single method on all labelled pictures, at its defaults; ``texts`` as create_adapter's."""
    text, scale, negatives = texts
    for method in REAL_METHODS:
        if method.adapter == "auto":
            continue
        row = []
        for count in shots:
            found = []
            for seed in range(seeds):
                drawn = draw(count, seed)
                parts = [part for part in (drawn.train, drawn.val) if part]
                adapter = create_adapter(method.adapter, text, scale, negative_text_features=negatives)
                adapter.fit(torch.cat([p.features for p in parts]), torch.cat([p.labels for p in parts]), seed=seed)
                found.append(float((adapter.predict(test.features) == test.labels).double().mean()))
            row.append(f"{100 * statistics.fmean(found):.1f}")
        print(name, method.label, *row, flush=True)


def unknown(given: GivenFeatures) -> None:
    classes, test, texts, denied = given.classes, given.test(), given.given.text, given.negatives
    assert texts is not None and denied is not None
    for shots in (4, 16):
        found: list[tuple[float, float, float]] = []
        for seed in range(3):
            kept = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))[:KNOWN].sort().values
            place = torch.full((classes,), -1)
            place[kept] = torch.arange(KNOWN)
            data = given.draw(shots, seed)
            assert data.val is not None
            text, negatives = texts[kept], denied[kept]
            adapter = create_adapter("auto", text, LOGIT_SCALE, negative_text_features=negatives)
            adapter.fit(*_of(data.train, place), *_of(data.val, place), seed=seed)
            certainty, is_known = adapter.predict_proba(test.features).max(-1).values, place[test.labels] >= 0
            own, other = certainty[is_known], certainty[~is_known]
            auroc = float((own[:, None] > other).double().mean() + 0.5 * (own[:, None] == other).double().mean())
            least = adapter.least_certainty(RATE)
            found.append((auroc, float((own < least).double().mean()), float((other < least).double().mean())))
        auroc, lost, caught = (statistics.fmean(column) for column in zip(*found, strict=True))
        print(given.encoder, f"{shots} shots: AUROC {auroc:.3f}, lost {lost:.3f}, caught {caught:.3f}", flush=True)


def _of(samples: Samples, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    labels = place[samples.labels]
    return samples.features[labels >= 0], labels[labels >= 0]


def main() -> None:
    folder, *wanted = sys.argv[1:]
    if not Path(folder).is_dir():
        same_of_pictures(folder, int(wanted[0]) if wanted else 3)
        return
    for name, file, encoder in REAL:
        given = GivenFeatures.read(Path(folder) / file, name, encoder)
        for measure in (same, unknown):
            if not wanted or measure.__name__ in wanted:
                measure(given)


if __name__ == "__main__":
    main()
