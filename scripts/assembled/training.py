"""Training the projector: first towards the words' own vectors, then through the language model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from assembled.lessons import Example, Lessons, mean_and_spread
from torch import Tensor

from vlmadapt.generative.models.assembled import PLACES, AssembledView
from vlmadapt.generative.models.projector import Projector
from vlmadapt.generative.models.smollm2 import ChatTokenizer
from vlmadapt.generative.models.text import IGNORED
from vlmadapt.generative.tasks.base import token_losses

SAID_EVERY, KEPT_EVERY = 10, 40  # steps


@dataclass(frozen=True)
class ProjectorConfig:
    """Settings; those of the alignment begin with ``align_``."""

    hidden: int = 640
    dropout: float = 0.1
    weight_decay: float = 0.05
    align_steps: int = 400
    align_batch: int = 256
    align_lr: float = 1e-3
    align_tau: float = 20.0
    steps: int = 200
    batch: int = 24
    lr: float = 1e-3
    warmup: int = 20
    seed: int = 0


def new_projector(lessons: Lessons, language: Any, config: ProjectorConfig) -> Projector:
    """Untrained: its vectors lie as far from the middle of the language model's words as words do."""
    words = language.get_input_embeddings().weight.detach()
    centre = words.mean(0)
    projector = Projector(*mean_and_spread(lessons.drawings.features), centre, PLACES, config.hidden)
    with torch.no_grad():
        projector.length.fill_(float((words - centre).norm(dim=-1).mean()))
        projector.place.normal_(std=0.02)
    return projector


def align(
    projector: Projector, lessons: Lessons, words: Tensor, tokenizer: ChatTokenizer, config: ProjectorConfig
) -> None:
    """The vector of a whole picture towards the mean vector of its name's tokens, among those of other names.

    words [vocabulary, D]. The two-way contrastive loss of CLIP (arXiv 2103.00020).
    """
    optimizer = torch.optim.AdamW(_trained(projector), lr=config.align_lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(config.align_steps, 1))
    for step in range(config.align_steps):
        named = {name: picture for picture, name in (lessons.draw_named() for _ in range(config.align_batch))}
        wanted = torch.stack([words[tokenizer.encode(f" {name}")].mean(0) for name in named])
        wanted = F.normalize(wanted - projector.centre, dim=-1)
        features = _dropped(projector, torch.stack(list(named.values())), config)
        logits = config.align_tau * projector.directions(features)[:, 0] @ wanted.T
        target = torch.arange(len(named))
        loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        loss.backward()
        _step(optimizer, schedule)
        if step % (10 * SAID_EVERY) == 0 or step == config.align_steps - 1:
            print(f"alignment {step:4}  loss {float(loss.detach()):.3f}", flush=True)


def train(view: AssembledView, lessons: Lessons, config: ProjectorConfig, keep: Callable[[], None]) -> None:
    """Through the frozen language model: the mean loss of an answer's tokens. ``keep`` is called now and then."""
    projector = view.module.projector
    optimizer = torch.optim.AdamW(_trained(projector), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / config.warmup, total_iters=config.warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(config.steps - config.warmup, 1)),
        ],
        [config.warmup],
    )
    begun, recent = time.monotonic(), 0.0
    for step in range(config.steps):
        examples = sorted((lessons.example() for _ in range(config.batch)), key=lambda each: len(each.question))
        # Captions ask nothing: apart from the questions they need no padding.
        parts = [
            part for part in ([e for e in examples if not e.question], [e for e in examples if e.question]) if part
        ]
        for part in parts:
            loss = losses(view, part, config).sum() / config.batch
            loss.backward()
            recent += float(loss.detach())
        _step(optimizer, schedule)
        if (step + 1) % SAID_EVERY == 0:
            seconds = time.monotonic() - begun
            print(f"step {step + 1:4}  loss {recent / SAID_EVERY:.3f}  {seconds:.0f} s", flush=True)
            recent = 0.0
        if (step + 1) % KEPT_EVERY == 0:
            keep()


def losses(view: AssembledView, examples: Sequence[Example], config: ProjectorConfig | None = None) -> Tensor:
    """[n], of each the mean over its answer's tokens; with ``config`` some of the features are dropped."""
    features = torch.stack([example.features.float() for example in examples])
    if config is not None:
        features = _dropped(view.module.projector, features, config)
    states, mask = view.read(features, [example.question for example in examples])
    targets = view.targets([example.answer for example in examples])
    found = token_losses(view.answer_logits(states, mask, targets), targets)
    return found.sum(1) / (targets.labels != IGNORED).sum(1)


def _dropped(projector: Projector, features: Tensor, config: ProjectorConfig) -> Tensor:
    return projector.mean + F.dropout(features - projector.mean, config.dropout)


def _trained(projector: Projector) -> list[torch.nn.Parameter]:
    projector.requires_grad_(True)
    return list(projector.parameters())


def _step(optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
