"""Texts to the token tensors of a generative model, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmadapt.errors import InputError
from vlmadapt.generative.models.base import Tokenizer

IGNORED = -100  # the label of positions that the loss leaves out


@dataclass(frozen=True)
class Targets:
    """Texts as a decoder learns them: ``inputs`` and ``labels`` int64 [B, L], one shifted against the other.

    ``labels[:, t]`` is what follows ``inputs[:, : t + 1]``, ``IGNORED`` beyond the end. ``mask`` int64 [B, L] is 1 on
    real inputs.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Targets:
        return Targets(self.inputs.to(device), self.labels.to(device), self.mask.to(device))


def encode_prompts(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> tuple[Tensor, Tensor]:
    """``[CLS] text [SEP]`` padded: numbers and mask, int64 [B, L]; texts are cut to ``longest`` tokens."""
    rows = [[tokenizer.cls, *tokenizer.encode(text)[: longest - 2], tokenizer.sep] for text in texts]
    return padded(rows, tokenizer.pad), padded([[1] * len(row) for row in rows], 0)


def encode_opening(tokenizer: Tokenizer, prompt: str, longest: int) -> list[int]:
    """``[DEC] prompt``, what a decoder starts from.

    Raises :class:`InputError` where that leaves less than one token of text and the end within ``longest``: a prompt is
    never cut, since every text is to follow the whole of it.
    """
    numbers = tokenizer.encode(prompt) if prompt else []
    if len(numbers) > longest - 3:
        raise InputError(
            f"prompt has {len(numbers)} tokens, but the model reads {longest} in all: shorten it to {longest - 3}, so "
            "that a text can follow."
        )
    return [tokenizer.bos, *numbers]


def encode_targets(tokenizer: Tokenizer, texts: Sequence[str], longest: int, prompt: str = "") -> Targets:
    """``[DEC] prompt text [SEP]`` as :class:`Targets`; nothing is learnt of the tokens of ``prompt``.

    Texts lose their last tokens where all would be more than ``longest``. Raises what :func:`encode_opening` raises.
    """
    start = encode_opening(tokenizer, prompt, longest)
    inputs, labels = [], []
    for text in texts:
        words = tokenizer.encode(text)[: longest - 1 - len(start)]
        inputs.append([*start, *words])
        labels.append([IGNORED] * (len(start) - 1) + [*words, tokenizer.sep])
    return Targets(
        padded(inputs, tokenizer.pad), padded(labels, IGNORED), padded([[1] * len(row) for row in inputs], 0)
    )


def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """int64 [n, length of the longest]: ``rows`` with ``filler`` behind the shorter ones."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], dtype=torch.int64)
