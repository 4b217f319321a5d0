"""How good the heads are: on held-out emoji (to choose them) and on pictures of other kinds (to report them)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from embedded.features import PairFeatures
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vlmadapt.backbones import Encoder, class_text_features
from vlmadapt.backbones.heads import EmbeddedHeads
from vlmadapt.data import Dataset, FewShotSplit, Sample, extract_features, load_dataset, sample_shots
from vlmadapt.errors import VlmadaptError

REPORTED = ("clipart", "tuxphotos")
SHOTS = (4, 16)
SEEDS = (0, 1, 2)
STRENGTHS = (0.1, 1.0, 10.0, 100.0)


def held_out_accuracy(heads: EmbeddedHeads, data: PairFeatures, held: Tensor, view: int = 0) -> dict[str, float]:
    """Zero-shot accuracy over the names of the pictures marked in ``held`` [n], in space A, in B and in both."""
    names, target = data.label[held].unique(return_inverse=True)
    texts = F.normalize(F.normalize(data.texts[:, names], dim=-1).mean(dim=0), dim=-1)
    features, logits = data.features[view, held], data.logits[view, held]
    cosines = {
        "A": heads.image_a(features, logits) @ heads.text_a(texts).T,
        "B": heads.image_b(features) @ heads.text_b(texts).T,
        "both": heads.images(features, logits) @ heads.texts(texts).T,
    }
    return {space: float((cosine.argmax(dim=-1) == target).double().mean()) for space, cosine in cosines.items()}


def report(encoder: Encoder) -> dict[str, Any]:
    """Zero-shot and linear-probe accuracy on the reported data sets; one that is not installed is left out, aloud."""
    results: dict[str, Any] = {}
    for name in REPORTED:
        try:
            dataset = load_dataset(name)
        except VlmadaptError as error:
            print(f"{name} is left out: {error}")
            continue
        results[name] = _report_one(encoder, dataset)
        print(name, results[name])
    return results


def _report_one(encoder: Encoder, dataset: Dataset) -> dict[str, float]:
    samples = dataset.train + dataset.val + dataset.test
    features = extract_features(encoder, [sample.path for sample in samples])
    row = {sample: feature for sample, feature in zip(samples, features, strict=True)}
    classes = class_text_features(encoder, dataset.class_names, dataset.templates)
    results = {
        "zero-shot, all pictures": _zero_shot(classes, samples, row),
        "zero-shot, test split": _zero_shot(classes, dataset.test, row),
    }
    for shots in SHOTS:
        try:
            splits = [sample_shots(dataset, shots, seed) for seed in SEEDS]
        except VlmadaptError:
            continue  # too few pictures in some class
        scores = torch.tensor([_linear_probe(split, dataset.test, row) for split in splits])
        results[f"linear probe, {shots} shots, mean of {len(SEEDS)}"] = round(float(scores.mean()), 4)
    return results


def _zero_shot(classes: Tensor, samples: tuple[Sample, ...], row: dict[Sample, Tensor]) -> float:
    features, labels = _stack(samples, row)
    return round(float(((features @ classes.T).argmax(dim=-1) == labels).double().mean()), 4)


def _linear_probe(split: FewShotSplit, test: tuple[Sample, ...], row: dict[Sample, Tensor]) -> float:
    """Logistic regression, its strength chosen on the validation shots, read once on the test split."""
    train, val, held = (_stack(samples, row) for samples in (split.train, split.val, test))
    models = [LogisticRegression(C=strength, max_iter=1000).fit(*train) for strength in STRENGTHS]
    return float(max(models, key=lambda model: model.score(*val)).score(*held))


def _stack(samples: tuple[Sample, ...], row: dict[Sample, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.stack([row[sample] for sample in samples]), torch.tensor([sample.label for sample in samples])
