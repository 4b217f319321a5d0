"""Contrastive training of the embedded encoder's heads on cached tower features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from embedded.features import PairFeatures
from torch import Tensor, nn

from vlmadapt.backbones.heads import EmbeddedHeads


@dataclass(frozen=True)
class HeadConfig:
    """Settings of one training; those of space B end in ``_b``."""

    batch: int = 256
    tau: float = 30.0
    dropout: float = 0.2
    weight_decay: float = 0.05
    prototypes: int = 256
    steps: int = 200
    lr: float = 3e-4
    keep_prototypes: float = 1.0
    keep_conse: float = 1.0
    image_hidden: int = 256
    steps_b: int = 300
    lr_b: float = 1e-3
    keep_prototypes_b: float = 1.0
    text_hidden: int = 640
    seed: int = 0


@dataclass(frozen=True)
class ImageNetPrior:
    """What the image tower knows already: ``texts`` [templates, 1000, 384] of its class names, and its classifier.

    A row of the classifier, set off from the mean feature, stands for a photo of its class.
    """

    texts: Tensor
    classifier: nn.Linear

    @property
    def rows(self) -> Tensor:
        return F.normalize(self.classifier.weight.detach(), dim=-1)


class Sampler:
    """Batches of one random view of one random picture of each of ``batch`` random names: no name dominates."""

    def __init__(self, data: PairFeatures, keep: Tensor, seed: int) -> None:
        self.data = data
        self.generator = torch.Generator().manual_seed(seed)
        labels = data.label[keep]
        order = torch.argsort(labels, stable=True)
        self.pictures = torch.nonzero(keep).squeeze(1)[order]
        self.names, counts = torch.unique_consecutive(labels[order], return_counts=True)
        self.counts, self.starts = counts, counts.cumsum(0) - counts

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """features [b, 1280], logits [b, 1000], texts [b, 384]: row by row one picture and its name."""
        size = min(batch, len(self.names))
        chosen = torch.randperm(len(self.names), generator=self.generator)[:size]
        offset = (torch.rand(size, generator=self.generator) * self.counts[chosen]).long()
        picture = self.pictures[self.starts[chosen] + offset]
        view = torch.randint(len(self.data.features), (size,), generator=self.generator)
        template = torch.randint(len(self.data.texts), (size,), generator=self.generator)
        texts = self.data.texts[template, self.names[chosen]]
        return self.data.features[view, picture], self.data.logits[view, picture], texts


def train_heads(data: PairFeatures, keep: Tensor, prior: ImageNetPrior, config: HeadConfig) -> EmbeddedHeads:
    """Heads of both spaces, from the pictures marked in ``keep`` [n]; the same seed gives the same heads."""
    torch.manual_seed(config.seed)
    mean = data.features[0, keep].mean(dim=0)
    names = F.normalize(prior.texts[0], dim=-1)
    heads = EmbeddedHeads(names, mean, config.image_hidden, config.text_hidden)
    image_parts = [heads.image_linear, heads.image_inner, heads.image_outer]
    loss_a = _loss_a(heads, Sampler(data, keep, config.seed), prior, config)
    _fit(image_parts, config.steps, config.lr, config.weight_decay, loss_a)
    text_parts = [heads.text_inner, heads.text_outer]
    loss_b = _loss_b(heads, Sampler(data, keep, config.seed + 1), prior, config)
    _fit(text_parts, config.steps_b, config.lr_b, config.weight_decay, loss_b)
    return heads.eval().requires_grad_(False)


def _fit(parts: list[nn.Linear], steps: int, lr: float, weight_decay: float, loss: Callable[[], Tensor]) -> None:
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def _both_ways(images: Tensor, texts: Tensor, tau: float) -> Tensor:
    """The contrastive loss of CLIP (arXiv 2103.00020): row i of both sides belong together."""
    logits, target = tau * images @ texts.T, torch.arange(len(images))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def _draw_prototypes(prior: ImageNetPrior, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Unit classifier rows [count, 1280] and their names [count, 384], each in a random template."""
    drawn = torch.randperm(len(prior.rows), generator=generator)[:count]
    template = torch.randint(len(prior.texts), (len(drawn),), generator=generator)
    return prior.rows[drawn], prior.texts[template, drawn]


def _loss_a(heads: EmbeddedHeads, sampler: Sampler, prior: ImageNetPrior, config: HeadConfig) -> Callable[[], Tensor]:
    # The residual alone would fit emoji by overwriting ConSE, which ruins photos. Two terms hold it back:
    # prototypes must keep their names, and the residual stays short beside ConSE, whose length is at most 1.
    length = float((sampler.data.features[0] - heads.mean).norm(dim=-1).mean())

    def loss() -> Tensor:
        features, logits, texts = sampler.draw(config.batch)
        centred = F.dropout(features - heads.mean, config.dropout)
        emoji = _both_ways(heads.image_a(centred + heads.mean, logits), heads.text_a(texts), config.tau)
        rows, names = _draw_prototypes(prior, config.prototypes, sampler.generator)
        photos = heads.mean + length * rows
        with torch.no_grad():
            photo_logits = prior.classifier(photos)
        classes = _both_ways(heads.image_a(photos, photo_logits), heads.text_a(names), config.tau)
        short = heads.residual(centred + heads.mean).square().sum(dim=-1).mean()
        return emoji + config.keep_prototypes * classes + config.keep_conse * short

    return loss


def _loss_b(heads: EmbeddedHeads, sampler: Sampler, prior: ImageNetPrior, config: HeadConfig) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        features, _, texts = sampler.draw(config.batch)
        texts = F.dropout(F.normalize(texts, dim=-1), config.dropout)
        emoji = _both_ways(heads.image_b(features), heads.text_b(texts), config.tau)
        rows, names = _draw_prototypes(prior, config.prototypes, sampler.generator)
        return emoji + config.keep_prototypes_b * _both_ways(rows, heads.text_b(names), config.tau)

    return loss
