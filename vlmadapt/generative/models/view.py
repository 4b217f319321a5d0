"""What the tasks ask of a generative model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.errors import InputError
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.text import Targets, encode_opening, encode_prompts, encode_targets
from vlmadapt.generative.models.wrappers import adaptable, plain_state, unwrapped
from vlmadapt.training import fingerprint_tensors


class TaskModel(ABC):
    """A loaded generative model as a task sees it.

    ``module`` is the model itself without torch's wrappers, which methods attach to; ``transform`` gives float32
    [3, H, W] of a picture, or another tensor that :meth:`features` takes; ``longest`` is the most tokens a text may
    have. Features of several pictures are a tensor, its first dimension theirs, or a list where their shapes differ,
    which happens to models that read pictures of any size only.
    """

    longest: int

    def __init__(self, loaded: GenerativeModel) -> None:
        self.module: Any = unwrapped(loaded.model)
        self.tokenizer, self.transform, self.name = loaded.tokenizer, loaded.transform, loaded.name

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.module.parameters()).device

    def fingerprint(self) -> str:
        """sha256 of the weights under plain names. Raises :class:`InputError` where they are quantised."""
        return fingerprint_tensors(**plain_state(adaptable(self.module)))

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """The image tower: where nothing in it trains, its features are computed once."""

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> what the text side attends to, [B, N, D] or [B, ..., D]."""

    def prompts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token numbers and mask ``[n, length]`` of ``texts``, as an encoder reads them."""
        numbers, mask = encode_prompts(self.tokenizer, texts, self.longest)
        return numbers.to(self.device), mask.to(self.device)

    def targets(self, texts: Sequence[str], prompt: str = "") -> Targets:
        """What a decoder reads and is to say for ``texts``, after ``prompt``; raises as :func:`encode_targets` does."""
        return encode_targets(self.tokenizer, texts, self.longest, prompt).to(self.device)

    def decode(self, numbers: Tensor) -> list[str]:
        """Token numbers ``[n, length]`` as texts."""
        return [self.tokenizer.decode(row) for row in numbers.tolist()]


class Captioner(TaskModel):
    """A model that describes a picture."""

    def opening(self, prompt: str) -> list[int]:
        """Token numbers that a caption starts from; raises as :func:`encode_opening` does."""
        return encode_opening(self.tokenizer, prompt, self.longest)

    @abstractmethod
    def caption_logits(self, features: Any, targets: Targets) -> Tensor:
        """[B, L, vocabulary]: position t predicts ``targets.labels[:, t]``."""

    @abstractmethod
    def describe(self, features: Any, prompt: str, beams: int, longest: int) -> list[str]:
        """Generated captions, without ``prompt``; ``longest`` counts new tokens."""


class Answerer(TaskModel):
    """A model that answers a text about a picture."""

    @abstractmethod
    def read(self, features: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States [B, L, D] of questions or hypotheses that have seen the picture, and their mask, [B, L] or what else
        the model takes as one."""

    @abstractmethod
    def answer_logits(self, states: Tensor, mask: Tensor, targets: Targets) -> Tensor:
        """[B, L, vocabulary]: position t predicts ``targets.labels[:, t]``."""

    def candidate_logits(self, states: Tensor, mask: Tensor, rows: Tensor, targets: Targets) -> Tensor:
        """:meth:`answer_logits` of several answers to some of the states: ``rows`` int64 [R] says which, in order, and
        ``targets`` hold an answer a row. Models that can read a question once for all of its answers do."""
        return self.answer_logits(states[rows], mask[rows], targets)

    @abstractmethod
    def reply(self, states: Tensor, mask: Tensor, beams: int, longest: int) -> list[str]:
        """Generated answers; ``longest`` counts new tokens."""


def as_captioner(model: TaskModel) -> Captioner:
    """``model`` itself. Raises :class:`InputError` where it does not describe pictures."""
    if not isinstance(model, Captioner):
        raise InputError(f"model {model.name} does not describe pictures: give a captioning model, or another --task.")
    return model


def as_answerer(model: TaskModel) -> Answerer:
    """``model`` itself. Raises :class:`InputError` where it does not answer questions."""
    if not isinstance(model, Answerer):
        raise InputError(f"model {model.name} does not answer questions: give one trained for VQA, or --task caption.")
    return model
