"""Many examples about several pictures as one row of the language model: nothing is padded, and nothing read twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmadapt.generative.models.assembled import AssembledView

SHARED = -1  # the number of the picture or example of a position that belongs to all of them


@dataclass(frozen=True)
class Example:
    """What may be asked of a picture and what is right; ``kind`` is for reports."""

    question: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Pictured:
    """``features`` [N, E] of a picture and several examples."""

    features: Tensor
    examples: list[Example]


@dataclass(frozen=True)
class Packed:
    """Positions of one row [T]: those before all pictures, then each picture followed by its examples.

    tokens: int64 [T], 0 in the ``places`` of pictures. positions: each counted as if its example stood alone.
    mask: bool [T, T], what sees what. answered: the places that predict ``labels``; ``owner``: whose label it is.
    """

    tokens: Tensor
    places: Tensor
    positions: Tensor
    mask: Tensor
    answered: Tensor
    labels: Tensor
    owner: Tensor


def pack(view: AssembledView, pictured: Sequence[Pictured]) -> Packed:
    """Examples are numbered in order, over all pictures."""
    words, chat, vectors = view.tokenizer, view.chat, view.module.projector.places
    tokens, positions = list(chat.before), list(range(len(chat.before)))
    pictures, owners = [SHARED] * len(tokens), [SHARED] * len(tokens)
    places: list[int] = []
    answered: list[int] = []
    labels: list[int] = []
    begin, examples = len(chat.before), 0

    def add(numbers: Sequence[int], start: int, picture: int, owner: int) -> None:
        tokens.extend(numbers)
        positions.extend(range(start, start + len(numbers)))
        pictures.extend([picture] * len(numbers))
        owners.extend([owner] * len(numbers))

    for number, each in enumerate(pictured):
        places.extend(range(len(tokens), len(tokens) + vectors))
        add([0] * vectors, begin, number, SHARED)
        for example in each.examples:
            asked = [*words.encode(example.question), *chat.after, words.bos]
            answer = words.encode(example.answer)
            add([*asked, *answer], begin + vectors, number, examples)
            answered.extend(range(len(tokens) - len(answer) - 1, len(tokens)))
            labels.extend([*answer, words.sep])
            examples += 1
    row = torch.arange(len(tokens))
    seen = row[None] <= row[:, None]
    for whose in (torch.tensor(pictures), torch.tensor(owners)):
        seen &= (whose == SHARED)[None] | (whose[None] == whose[:, None])
    at = torch.tensor(answered)
    found = (torch.tensor(tokens), torch.tensor(places), torch.tensor(positions), seen)
    return Packed(*found, at, torch.tensor(labels), torch.tensor(owners)[at])


def packed_losses(view: AssembledView, language: Any, vectors: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """Of each example the mean loss over its answer's tokens, and whether all of them are the likeliest: both [n].

    vectors: of the pictures, [P, N, D]. ``language``: that of ``view``, perhaps in another precision.
    """
    words = view.module.embed(packed.tokens)
    read = words.index_copy(0, packed.places, vectors.flatten(0, 1))
    dtype = language.lm_head.weight.dtype
    # Added to the scores: of truth values, which say the same to other attentions, the eager one masks nothing.
    hidden = torch.zeros(packed.mask.shape, dtype=dtype).masked_fill(~packed.mask, torch.finfo(dtype).min)
    states = language.model(
        inputs_embeds=read[None].to(dtype),
        attention_mask=hidden[None, None],
        position_ids=packed.positions[None],
        use_cache=False,
    ).last_hidden_state[0]
    logits = language.lm_head(states[packed.answered]).float()
    each = F.cross_entropy(logits, packed.labels, reduction="none")
    counts = packed.owner.bincount()
    sums = each.new_zeros(len(counts)).index_add(0, packed.owner, each)
    wrong = torch.zeros(len(counts), dtype=torch.int64)
    wrong.index_add_(0, packed.owner, (logits.argmax(1) != packed.labels).long())
    return sums / counts, wrong == 0
