"""Answers ranked by their likelihood under the decoder (arXiv 2201.12086, section 5.4, and its code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.generative.models.text import IGNORED, Targets
from vlmadapt.generative.models.view import Answerer
from vlmadapt.generative.tasks.base import token_losses


def rank_answers(model: Answerer, states: Tensor, mask: Tensor, candidates: Sequence[str], keep: int) -> Tensor:
    """For each question the index of the likeliest of ``candidates``: int64 [B].

    The ``keep`` candidates whose first token is the likeliest are read whole; the score of an answer is the sum of the
    log-probabilities of its tokens and of the end, so ``keep >= len(candidates)`` is the exact ranking.
    """
    targets = model.targets(candidates)
    count = len(states)
    if keep < len(candidates):
        chosen = _likeliest_first(model, states, mask, targets, keep)
    else:
        keep = len(candidates)
        chosen = torch.arange(keep, device=states.device).expand(count, keep)
    rows = chosen.flatten()
    questions = torch.arange(count, device=states.device).repeat_interleave(keep)
    picked = Targets(targets.inputs[rows], targets.labels[rows], targets.mask[rows])
    losses = torch.cat([
        token_losses(model.candidate_logits(states, mask, questions[part], piece), piece).sum(1)
        for part, piece in _pieces(picked)
    ]).view(count, keep)  # fmt: skip
    return chosen.gather(1, losses.argmin(1, keepdim=True)).squeeze(1)


def _likeliest_first(model: Answerer, states: Tensor, mask: Tensor, targets: Targets, keep: int) -> Tensor:
    """Which ``keep`` of the answers ``targets`` have the likeliest first tokens: int64 [B, keep], ascending."""
    count, first = len(states), targets.labels[:, 0]
    start = Targets(
        targets.inputs[:1, :1].expand(count, 1), first[:1].expand(count, 1), targets.mask[:1, :1].expand(count, 1)
    )
    opening = model.answer_logits(states, mask, start)[:, 0].float().log_softmax(-1)
    return opening[:, first].topk(keep, dim=1).indices.sort(dim=1).values


def answer_losses(model: Answerer, states: Tensor, mask: Tensor, answers: Sequence[str]) -> Tensor:
    """Minus the log-likelihood of one answer a row: float32 [B], the sum over its tokens and the end."""
    targets = model.targets(answers)
    return token_losses(model.answer_logits(states, mask, targets), targets).sum(1)


def _pieces(targets: Targets, rows: int = 2048) -> list[tuple[slice, Targets]]:
    """Slices of at most ``rows`` rows, each without the columns that are padding in all of them."""
    pieces = []
    for start in range(0, len(targets.inputs), rows):
        part = slice(start, start + rows)
        longest = int((targets.labels[part] != IGNORED).sum(1).max())
        pieces.append(
            (
                part,
                Targets(targets.inputs[part, :longest], targets.labels[part, :longest], targets.mask[part, :longest]),
            )
        )
    return pieces
