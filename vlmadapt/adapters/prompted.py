"""Token embeddings of prompts through a text tower, a few at a time, with gradients at little memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PROMPTS_AT_ONCE = 64  # what a tower keeps of more of them for the backward is computed again


class Tokens(Protocol):
    """The part of ``vlmadapt.backbones.TokenInputs`` that is read here."""

    embeddings: Tensor  # [T, L, E]
    tokens: Tensor  # [T, L]
    mask: Tensor  # [T, L]


def encode_prompts(encoder: Any, prompts: Tokens, embeddings: Tensor, random: bool = False) -> Tensor:
    """Features ``[T, D]`` of ``prompts`` with ``embeddings [T, L, E]`` in place of their own; differentiable.

    ``random``: the tower draws random numbers, which must be the same ones when it computes again.
    """

    def part(rows: Tensor) -> Tensor:
        rows = rows.to(embeddings.device)
        some: Any = replace(  # type: ignore[type-var]
            prompts, embeddings=embeddings[rows], tokens=prompts.tokens[rows], mask=prompts.mask[rows]
        )
        return encoder.encode_tokens(some)

    several = torch.arange(len(embeddings)).split(PROMPTS_AT_ONCE)
    if len(several) == 1 or not torch.is_grad_enabled():
        return torch.cat([part(rows) for rows in several])
    return torch.cat([checkpoint(part, rows, use_reentrant=False, preserve_rng_state=random) for rows in several])
