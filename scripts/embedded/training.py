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
    steps: int = 200
    batch: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    tau: float = 30.0
    image_hidden: int = 256
    text_hidden: int = 640
    strength: float = 1.0
    prototypes: float = 0.5
    steps_b: int = 200
    lr_b: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class ImageNetPrior:
    """``names`` [1000, 384]: normalised class-name embeddings; ``rows`` [1000, 1280]: the classifier's weights."""

    names: Tensor
    rows: Tensor


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
    heads = EmbeddedHeads(prior.names, mean, config.strength, config.image_hidden, config.text_hidden)
    image_parts = [heads.image_linear, heads.image_inner, heads.image_outer]
    _fit(image_parts, config, config.steps, config.lr, _loss_a(heads, Sampler(data, keep, config.seed), config))
    text_parts = [heads.text_inner, heads.text_outer]
    loss_b = _loss_b(heads, Sampler(data, keep, config.seed + 1), prior, config)
    _fit(text_parts, config, config.steps_b, config.lr_b, loss_b)
    return heads.eval().requires_grad_(False)


def _fit(parts: list[nn.Linear], config: HeadConfig, steps: int, lr: float, loss: Callable[[], Tensor]) -> None:
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=config.weight_decay)
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


def _loss_a(heads: EmbeddedHeads, sampler: Sampler, config: HeadConfig) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        features, logits, texts = sampler.draw(config.batch)
        centred = F.dropout(features - heads.mean, config.dropout) + heads.mean
        return _both_ways(heads.image_a(centred, logits), heads.text_a(texts), config.tau)

    return loss


def _loss_b(heads: EmbeddedHeads, sampler: Sampler, prior: ImageNetPrior, config: HeadConfig) -> Callable[[], Tensor]:
    rows = F.normalize(prior.rows, dim=-1)

    def loss() -> Tensor:
        features, _, texts = sampler.draw(config.batch)
        texts = F.dropout(F.normalize(texts, dim=-1), config.dropout)
        emoji = _both_ways(heads.image_b(features), heads.text_b(texts), config.tau)
        drawn = torch.randperm(len(rows), generator=sampler.generator)[: config.batch // 2]
        classes = _both_ways(rows[drawn], heads.text_b(prior.names[drawn]), config.tau)
        return emoji + config.prototypes * classes

    return loss
