"""A picture and a few tokens put to a known generative model, to see that what is attached to it works. Ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

TOKENS = 5


class Probe(ABC):
    """What :meth:`vlmadapt.generative.methods.Attached.check` asks of a model.

    library: the package whose code the model runs, a key of :data:`vlmadapt.doors.PROVEN`.
    """

    library: str

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def logits(self) -> Tensor:
        """A differentiable output, of any shape."""

    @abstractmethod
    def text(self, use_cache: bool) -> Any:
        """What ``transformers``' ``generate`` returns of ``TOKENS`` greedy steps with their logits, or None."""

    def pixels(self, size: int) -> Tensor:
        """One picture [1, 3, size, size], always the same, in the model's dtype and on its device."""
        return self.drawn(1, 3, size, size)

    def drawn(self, *shape: int) -> Tensor:
        """Normal numbers, always the same, in the model's dtype and on its device."""
        weight = next(self.model.parameters())
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)

    def tokens(self, words: int, first: int) -> Tensor:
        """int64 [1, TOKENS] of a vocabulary of ``words``, ``first`` first."""
        spread = (torch.arange(TOKENS) * 7919) % words
        spread[0] = first
        return spread[None].to(next(self.model.parameters()).device)


SEARCH: dict[str, Any] = {"do_sample": False, "num_beams": 1, "output_logits": True, "return_dict_in_generate": True}
