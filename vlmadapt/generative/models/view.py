"""What the tasks ask of a generative model, and BLIP's and CoCa's answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.errors import InputError
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.blip import mask_cross_attention
from vlmadapt.generative.models.text import Targets, encode_prompts, encode_targets


class TaskModel(ABC):
    """A loaded generative model as a task sees it.

    ``module`` is the model itself, which methods attach to; ``transform`` gives float32 [3, H, W] of a picture;
    ``longest`` is the most tokens a text may have.
    """

    longest: int

    def __init__(self, loaded: GenerativeModel) -> None:
        self.module: Any = loaded.model
        self.tokenizer, self.transform, self.name = loaded.tokenizer, loaded.transform, loaded.name

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.module.parameters()).device

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """The image tower: where nothing in it trains, its features are computed once."""

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> what the text side attends to, [B, N, D]."""

    def prompts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token numbers and mask ``[n, length]`` of ``texts``, as an encoder reads them."""
        numbers, mask = encode_prompts(self.tokenizer, texts, self.longest)
        return numbers.to(self.device), mask.to(self.device)

    def targets(self, texts: Sequence[str], prompt: str = "") -> Targets:
        """What a decoder reads and is to say for ``texts``, after ``prompt``."""
        return encode_targets(self.tokenizer, texts, self.longest, prompt).to(self.device)

    def decode(self, numbers: Tensor) -> list[str]:
        """Token numbers ``[n, length]`` as texts."""
        return [self.tokenizer.decode(row) for row in numbers.tolist()]


class Captioner(TaskModel):
    """A model that describes a picture."""

    @abstractmethod
    def caption_logits(self, features: Tensor, targets: Targets) -> Tensor:
        """[B, L, vocabulary]: position t predicts ``targets.labels[:, t]``."""

    @abstractmethod
    def describe(self, features: Tensor, prompt: str, beams: int, longest: int) -> list[str]:
        """Generated captions, without ``prompt``; ``longest`` counts new tokens."""


class Answerer(TaskModel):
    """A model that answers a text about a picture."""

    @abstractmethod
    def read(self, features: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States [B, L, D] of questions or hypotheses that have seen the picture, and their mask [B, L]."""

    @abstractmethod
    def answer_logits(self, states: Tensor, mask: Tensor, targets: Targets) -> Tensor:
        """[B, L, vocabulary]: position t predicts ``targets.labels[:, t]``."""

    @abstractmethod
    def reply(self, states: Tensor, mask: Tensor, beams: int, longest: int) -> list[str]:
        """Generated answers; ``longest`` counts new tokens."""


class _Blip(TaskModel):
    def __init__(self, loaded: GenerativeModel) -> None:
        super().__init__(loaded)
        self.longest = self.module.config.text_config.max_position_embeddings

    @property
    def tower(self) -> nn.Module:
        return self.module.vision_model

    def features(self, pixels: Tensor) -> Tensor:
        return self.module.vision_model(pixel_values=pixels).last_hidden_state

    def _decode(self, states: Tensor, mask: Tensor | None, targets: Targets) -> Tensor:
        return self.module.text_decoder(
            input_ids=targets.inputs,
            attention_mask=targets.mask,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
        ).logits

    def _generate(self, start: Tensor, states: Tensor, mask: Tensor, beams: int, longest: int) -> Tensor:
        # The decoder's own generate, with the question's mask: BlipForQuestionAnswering.generate attends to padding.
        with torch.no_grad():
            return self.module.text_decoder.generate(
                input_ids=start,
                attention_mask=torch.ones_like(start),
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                num_beams=beams,
                max_new_tokens=min(longest, self.longest - start.shape[1]),
                do_sample=False,
                eos_token_id=self.tokenizer.sep,
                pad_token_id=self.tokenizer.pad,
                bos_token_id=self.tokenizer.bos,
            )


class BlipCaptioner(_Blip, Captioner):
    """``transformers.BlipForConditionalGeneration``."""

    def caption_logits(self, features: Tensor, targets: Targets) -> Tensor:
        return self._decode(features, None, targets)

    def describe(self, features: Tensor, prompt: str, beams: int, longest: int) -> list[str]:
        start = [self.tokenizer.bos, *(self.tokenizer.encode(prompt) if prompt else [])]
        inputs = torch.tensor([start] * len(features), device=features.device)
        mask = torch.ones(features.shape[:2], dtype=torch.int64, device=features.device)
        return self.decode(self._generate(inputs, features, mask, beams, longest)[:, len(start) :])


class BlipAnswerer(_Blip, Answerer):
    """``transformers.BlipForQuestionAnswering``, its cross-attentions made to obey their mask."""

    def __init__(self, loaded: GenerativeModel) -> None:
        super().__init__(loaded)
        mask_cross_attention(self.module)

    def read(self, features: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        numbers, mask = self.prompts(texts)
        seen = torch.ones(features.shape[:2], dtype=torch.int64, device=features.device)
        states = self.module.text_encoder(
            input_ids=numbers, attention_mask=mask, encoder_hidden_states=features, encoder_attention_mask=seen
        ).last_hidden_state
        return states, mask

    def answer_logits(self, states: Tensor, mask: Tensor, targets: Targets) -> Tensor:
        return self._decode(states, mask, targets)

    def reply(self, states: Tensor, mask: Tensor, beams: int, longest: int) -> list[str]:
        start = torch.full((len(states), 1), self.tokenizer.bos, device=states.device)
        return self.decode(self._generate(start, states, mask, beams, longest)[:, 1:])


class CocaCaptioner(Captioner):
    """open_clip's CoCa."""

    def __init__(self, loaded: GenerativeModel) -> None:
        super().__init__(loaded)
        self.longest = self.module.context_length

    @property
    def tower(self) -> nn.Module:
        return self.module.visual

    def features(self, pixels: Tensor) -> Tensor:
        return self.module._encode_image(pixels)[1]

    def caption_logits(self, features: Tensor, targets: Targets) -> Tensor:
        return self.module.text_decoder(features, self.module._encode_text(targets.inputs)[1])

    def describe(self, features: Tensor, prompt: str, beams: int, longest: int) -> list[str]:
        from vlmadapt.generative.models import generate

        start = [self.tokenizer.bos, *(self.tokenizer.encode(prompt) if prompt else [])]
        inputs = torch.tensor([start] * len(features), device=features.device)
        options: dict[str, Any] = {
            "start_token": self.tokenizer.bos,
            "end_token": self.tokenizer.sep,
            "num_beams": beams,
        }
        longest = min(longest, self.longest - len(start))
        told = generate(self.module, features, inputs, max_new_tokens=longest, **options)
        return self.decode(told[:, len(start) :])


def task_model(loaded: GenerativeModel) -> TaskModel:
    """The view of a loaded model that fits its class. Raises :class:`InputError` for one that no task here uses."""
    views: dict[str, type[TaskModel]] = {
        "BlipForConditionalGeneration": BlipCaptioner,
        "BlipForQuestionAnswering": BlipAnswerer,
        "CoCa": CocaCaptioner,
    }
    kind = type(loaded.model).__name__
    if kind not in views:
        raise InputError(f"model {loaded.name} is a {kind}, which no task here uses: give one of {', '.join(views)}.")
    return views[kind](loaded)


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
