"""A picture and a few tokens put to a known generative model, to see that what is attached to it works. Ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 5


class Probe(ABC):
    """What :meth:`vlmadapt.adapters.generative.Attached.check` asks of a model.

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
        weight = next(self.model.parameters())
        drawn = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        return drawn.to(weight.device, weight.dtype)

    def tokens(self, words: int, first: int) -> Tensor:
        """int64 [1, TOKENS] of a vocabulary of ``words``, ``first`` first."""
        spread = (torch.arange(TOKENS) * 7919) % words
        spread[0] = first
        return spread[None].to(next(self.model.parameters()).device)


SEARCH: dict[str, Any] = {"do_sample": False, "num_beams": 1, "output_logits": True, "return_dict_in_generate": True}


class BlipProbe(Probe):
    library = "transformers"

    def _image(self) -> Tensor:
        return self.model.vision_model(pixel_values=self.pixels(self.model.config.vision_config.image_size))[0]

    def _question(self) -> Tensor:
        """What the text decoder attends to."""
        image = self._image()
        if not hasattr(self.model, "text_encoder"):
            return image
        return self.model.text_encoder(self._start(), encoder_hidden_states=image)[0]

    def _start(self) -> Tensor:
        text = self.model.config.text_config
        return self.tokens(text.vocab_size, text.bos_token_id)

    def logits(self) -> Tensor:
        if not hasattr(self.model, "text_decoder"):  # retrieval
            return self.model.text_encoder(self._start(), encoder_hidden_states=self._image())[0]
        states = self._question()
        return self.model.text_decoder(self._start(), encoder_hidden_states=states, use_cache=False).logits

    def text(self, use_cache: bool) -> Any:
        if not hasattr(self.model, "text_decoder"):
            return None
        states, start = self._question(), self._start()[:, :1]
        given = {"encoder_hidden_states": states, "encoder_attention_mask": states.new_ones(states.shape[:2]).long()}
        lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
        return self.model.text_decoder.generate(
            start, attention_mask=torch.ones_like(start), use_cache=use_cache, **given, **lengths, **SEARCH
        )


class CocaProbe(Probe):
    library = "open_clip_torch"

    def _picture(self) -> Tensor:
        size: Any = self.model.visual.image_size
        return self.pixels(size[0] if isinstance(size, (tuple, list)) else size)

    def _start(self) -> Tensor:
        return self.tokens(self.model.text.vocab_size, 1)

    def logits(self) -> Tensor:
        tokens = self.model._encode_image(self._picture())[1]
        return self.model.text_decoder(tokens, self.model._encode_text(self._start())[1])

    def text(self, use_cache: bool) -> Any:
        from vlmadapt.backbones.generative.generation import generate

        start, end = 1, self.model.text.vocab_size - 1
        lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
        return generate(
            self.model,
            self._picture(),
            self._start()[:, :1],
            use_cache=use_cache,
            start_token=start,
            end_token=end,
            **lengths,
            **SEARCH,
        )


def find_probe(model: nn.Module) -> Probe | None:
    """The probe of a known model; None for another."""
    kind = type(model).__name__
    if kind in ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"):
        return BlipProbe(model)
    return CocaProbe(model) if kind == "CoCa" else None
