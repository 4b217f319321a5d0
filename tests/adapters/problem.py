"""A small few-shot problem with the geometry of image-text features, for every adapter test.

Image-image cosines lie around .7, image-text cosines around .25, as CLIP has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

TAU = 50.0


@dataclass(frozen=True)
class Problem:
    text: Tensor
    features: Tensor
    labels: Tensor
    val_features: Tensor
    val_labels: Tensor
    queries: Tensor
    query_labels: Tensor

    @property
    def fit_arguments(self):
        return self.features, self.labels, self.val_features, self.val_labels

    def without_class(self, label):
        keep = self.labels != label
        return replace(self, features=self.features[keep], labels=self.labels[keep])


def make_problem(classes=5, shots=4, width=24, dtype=torch.float64, seed=0) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    common = 1.5 * torch.nn.functional.normalize(randn(width), dim=-1)
    prototypes = torch.nn.functional.normalize(randn(classes, width), dim=-1)
    modality = torch.nn.functional.normalize(randn(width), dim=-1)

    def draw(count):
        labels = torch.arange(classes).repeat(count)
        noise = 0.6 * randn(len(labels), width) / width**0.5
        return torch.nn.functional.normalize(common + prototypes[labels] + noise, dim=-1).to(dtype), labels

    text = torch.nn.functional.normalize(1.5 * modality + 0.7 * prototypes, dim=-1).to(dtype)
    return Problem(text, *draw(shots), *draw(2), *draw(6))
