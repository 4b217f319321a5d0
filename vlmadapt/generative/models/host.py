"""Language models of ``transformers`` that read pictures, adapted through its attention interface. Ours.

A family says where its language model and its image tower are, and how a picture is put to it.
"""

from __future__ import annotations

from abc import abstractmethod
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlmadapt.generative.models.family import Family
from vlmadapt.generative.models.interface import interface_sites, projections
from vlmadapt.generative.models.probe import SEARCH, TOKENS, Probe
from vlmadapt.generative.models.sites import Sites


class HostProbe(Probe):
    library = "transformers"
    of_text: ClassVar[dict[str, int]] = {"attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 1}

    @abstractmethod
    def inputs(self) -> dict[str, Tensor]:
        """One picture and ``TOKENS`` tokens behind it, as the model's forward takes them."""

    def with_picture(self, tokens: int, picture: int | None = None) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``: ``tokens`` times the number of the picture, then a text."""
        config = self.model.config
        number = config.image_token_id if picture is None else picture
        text = self.tokens(config.get_text_config().vocab_size, 1)
        text = torch.where(text == number, number - 1 if number > 2 else number + 1, text)
        numbers = torch.cat([text[:, :1], text.new_full((1, tokens), number), text[:, 1:]], 1)
        return {"input_ids": numbers, "attention_mask": torch.ones_like(numbers)}

    def logits(self) -> Tensor:
        return self.model(**self.inputs(), use_cache=False).logits

    def text(self, use_cache: bool) -> Any:
        """By ``generate`` with a cache; without, one whole forward a token: in some versions of transformers the
        picture is lost on the way from one token to the next."""
        given, found, text = self.inputs(), [], self.model.config.get_text_config()
        # A picture's token in the text, which only random weights put there, would ask for another picture; an end
        # would end it.
        config = self.model.config
        pictures = ("image_token_id", "video_token_id", "vision_start_token_id")
        numbers = {getattr(config, name, None) for name in pictures}
        for ends in (text.eos_token_id, self.model.generation_config.eos_token_id):
            numbers |= set(ends if isinstance(ends, list) else [ends])
        unsaid = sorted(number for number in numbers if number is not None)
        if use_cache:
            told = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "suppress_tokens": unsaid}
            return self.model.generate(**given, use_cache=True, **told, **SEARCH)
        if text.is_encoder_decoder:
            given["decoder_input_ids"] = given["input_ids"].new_full((1, 1), text.decoder_start_token_id)
        for _ in range(TOKENS):
            found.append(self.model(**given, use_cache=False).logits[:, -1].float())
            sayable = found[-1].index_fill(1, torch.tensor(unsaid, device=found[-1].device), -torch.inf)
            given = self._longer(given, sayable.argmax(1, keepdim=True))
        return SimpleNamespace(logits=tuple(found))

    def _longer(self, given: dict[str, Tensor], token: Tensor) -> dict[str, Tensor]:
        """``given`` with one token more, of text."""
        if "decoder_input_ids" in given:
            return {**given, "decoder_input_ids": torch.cat([given["decoder_input_ids"], token], 1)}
        added = {"input_ids": token} | {
            name: torch.full_like(token, value) for name, value in self.of_text.items() if name in given
        }
        return {**given, **{name: torch.cat([given[name], new], 1) for name, new in added.items()}}


class Host(Family):
    """text: names of the modules with the language model; image: of those that read pictures, the tower first."""

    text: ClassVar[tuple[str, ...]]
    image: ClassVar[tuple[str, ...]]

    @property
    def supported(self) -> str:  # type: ignore[override]
        return f"transformers' {', '.join(self.classes)}"

    @property
    def tower(self) -> str:  # type: ignore[override]
        return f"{self.image[0]}."

    def part_of(self, name: str) -> str:
        return "image" if f"{name}.".startswith(tuple(f"{prefix}." for prefix in self.image)) else "text"

    def matches(self, model: nn.Module) -> bool:
        return any(kind.__name__ in self.classes for kind in type(model).__mro__)

    def sites(self, model: nn.Module) -> Sites:
        """The language model's; raises what :func:`interface_sites` raises."""
        return interface_sites(model, *self.text)

    def tower_sites(self, model: nn.Module) -> Sites:
        """Those of all that reads pictures; raises what :func:`interface_sites` raises."""
        return interface_sites(model, *self.image)

    def lora_targets(self, model: nn.Module) -> list[nn.Module]:
        """The query and value projections of the language model."""
        return [projection for site in self.sites(model).attentions for projection in projections(site.owner)]
