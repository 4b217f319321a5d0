"""Training the projector: first towards the words' own vectors, then through the language model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from assembled.lessons import Data, Lessons, mean_and_spread
from assembled.packing import Pictured, pack, packed_losses
from torch import Tensor

from vlmadapt.generative.models.assembled import PLACES, AssembledView
from vlmadapt.generative.models.projector import Projector
from vlmadapt.generative.models.smollm2 import ChatTokenizer
from vlmadapt.training.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors

SAID_EVERY, KEPT_EVERY = 20, 100  # steps
A_ROW = 4  # pictures: of longer rows attention costs more, of shorter ones the products
COMPARED = 60  # pictures held back, of drawings and of shapes each


@dataclass(frozen=True)
class ProjectorConfig:
    """Settings; those of the alignment begin with ``align_``."""

    hidden: int = 384
    summary: int = 48
    dropout: float = 0.1
    weight_decay: float = 0.05
    align_steps: int = 300
    align_batch: int = 256
    align_lr: float = 1e-3
    align_tau: float = 20.0
    steps: int = 1200
    pictures: int = 8  # a step, of two to four examples each
    lr: float = 1e-3
    warmup: int = 50
    decay: int = 300  # of the last steps
    precision: str = "bfloat16"  # of the language model while it trains the projector
    seed: int = 0


def new_projector(lessons: Lessons, language: Any, config: ProjectorConfig) -> Projector:
    """Untrained: its vectors lie as far from the middle of the language model's words as words do."""
    words = language.get_input_embeddings().weight.detach()
    centre = words.mean(0)
    projector = Projector(*mean_and_spread(lessons.drawings.features), centre, PLACES, config.hidden, config.summary)
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
        _step(optimizer)
        schedule.step()
        if step % (10 * SAID_EVERY) == 0 or step == config.align_steps - 1:
            print(f"alignment {step:4}  loss {float(loss.detach()):.3f}", flush=True)


def train(view: AssembledView, data: Data, config: ProjectorConfig, checkpoint: Path, keep: Callable[[], None]) -> None:
    """Through the frozen language model: the mean loss of an answer's tokens.

    Now and then ``keep`` is called and ``checkpoint`` written, from which the same training goes on where it stopped.
    """
    projector = view.module.projector
    language = copy.deepcopy(view.module.language).to(getattr(torch, config.precision))
    language.set_attn_implementation("eager")  # the faster one on short rows
    optimizer = torch.optim.AdamW(_trained(projector), lr=config.lr, weight_decay=config.weight_decay)
    compared = _compared(data.held_back)
    begun, recent, done = time.monotonic(), 0.0, 0
    if checkpoint.exists():
        saved = Checkpoint.load(checkpoint, asdict(config))
        projector.load_state_dict(saved.current)
        load_optimizer_tensors(optimizer, saved.optimizer)
        torch.set_rng_state(saved.generator)
        done = saved.epoch
        print(f"step {done:4}  taken up from {checkpoint}", flush=True)
    for step in range(done, config.steps):
        pictured = [data.train.pictured() for _ in range(config.pictures)]
        number = sum(len(each.examples) for each in pictured)
        for part in rows_of(pictured):
            features = _dropped(projector, torch.stack([each.features for each in part]), config)
            loss = packed_losses(view, language, projector(features), pack(view, part))[0].sum() / number
            loss.backward()
            recent += float(loss.detach())
        factor = min(1.0, (step + 1) / config.warmup, (config.steps - step) / config.decay)
        optimizer.param_groups[0]["lr"] = config.lr * factor
        _step(optimizer)
        if (step + 1) % SAID_EVERY == 0:
            print(f"step {step + 1:4}  loss {recent / SAID_EVERY:.3f}  {time.monotonic() - begun:.0f} s", flush=True)
            recent = 0.0
        if (step + 1) % KEPT_EVERY == 0 or step == config.steps - 1:
            keep()
            reached = Checkpoint(
                epoch=step + 1,
                identity=asdict(config),
                progress={},
                current=projector.state_dict(),
                best={},
                optimizer=optimizer_tensors(optimizer),
                generator=torch.get_rng_state(),
            )
            reached.save(checkpoint)
            print(f"held back: {examined(view, language, compared)}", flush=True)


@torch.no_grad()
def examined(view: AssembledView, language: Any, compared: Sequence[Pictured]) -> dict[str, tuple[float, float]]:
    """By kind of question, the mean loss and the share of answers whose every token is the likeliest."""
    found: dict[str, list[tuple[float, float]]] = {}
    for part in rows_of(compared):
        vectors = view.module.projector(torch.stack([each.features for each in part]))
        losses, right = packed_losses(view, language, vectors, pack(view, part))
        examples = [example for each in part for example in each.examples]
        for example, loss, hit in zip(examples, losses.tolist(), right.tolist(), strict=True):
            found.setdefault(example.kind, []).append((loss, float(hit)))
    means = {kind: torch.tensor(values).mean(0).tolist() for kind, values in sorted(found.items())}
    return {kind: (round(loss, 3), round(right, 3)) for kind, (loss, right) in means.items()}


def rows_of(pictured: Sequence[Pictured]) -> list[Sequence[Pictured]]:
    """What is read at once."""
    return [pictured[start : start + A_ROW] for start in range(0, len(pictured), A_ROW)]


def _compared(held_back: Lessons) -> list[Pictured]:
    """Always the same; the training's random choices do not depend on it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [part.pictured() for part in (held_back.drawings, held_back.shapes) for _ in range(COMPARED)]


def _dropped(projector: Projector, features: Tensor, config: ProjectorConfig) -> Tensor:
    return projector.mean + F.dropout(features - projector.mean, config.dropout)


def _trained(projector: Projector) -> list[torch.nn.Parameter]:
    projector.requires_grad_(True)
    return list(projector.parameters())


def _step(optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
