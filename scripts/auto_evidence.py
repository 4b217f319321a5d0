"""What docs/results.md and docs/cli.md say of ``auto`` beside the tables, on real CLIP features.

    python scripts/auto_evidence.py FOLDER [same] [unknown]

FOLDER as for ``make results REAL=FOLDER``. ``same``: the single methods fitted on support and validation pictures
together, at their defaults, five seeds. ``unknown``: five of the classes are held out of ``auto``, three seeds.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch

from vlmadapt.adapters import create_adapter
from vlmadapt.experiments.given import LOGIT_SCALE, GivenFeatures
from vlmadapt.experiments.studies import REAL, REAL_METHODS
from vlmadapt.training import Samples

KNOWN, RATE = 14, 0.1


def same(given: GivenFeatures) -> None:
    test = given.test()
    for method in REAL_METHODS:
        if method.adapter == "auto":
            continue
        row = []
        for shots in (1, 2, 4, 8, 16):
            found = []
            for seed in range(5):
                parts = [part for part in (given.draw(shots, seed).train, given.draw(shots, seed).val) if part]
                adapter = create_adapter(
                    method.adapter, given.text, LOGIT_SCALE, negative_text_features=given.negatives
                ).fit(torch.cat([p.features for p in parts]), torch.cat([p.labels for p in parts]), seed=seed)
                found.append(float((adapter.predict(test.features) == test.labels).double().mean()))
            row.append(f"{100 * statistics.fmean(found):.1f}")
        print(given.encoder, method.label, *row, flush=True)


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
    for name, file, encoder in REAL:
        given = GivenFeatures.read(Path(folder) / file, name, encoder)
        for measure in (same, unknown):
            if not wanted or measure.__name__ in wanted:
                measure(given)


if __name__ == "__main__":
    main()
