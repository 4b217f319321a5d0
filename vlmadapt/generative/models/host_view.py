"""The tasks' view of the language models of ``transformers`` that read pictures, over their own forward. Ours."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from vlmadapt.doors import Door
from vlmadapt.errors import InputError
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.chat import ChatView
from vlmadapt.generative.models.host_words import HostTokenizer, Layout, chat_layout
from vlmadapt.pictures import read

FORWARD = Door(
    "transformers",
    "The forward of a model that reads pictures",
    ("attention_mask", "position_ids", "past_key_values", "inputs_embeds", "logits_to_keep"),
    aliases={"cache": "past_key_values"},  # transformers 5.24
)
SHARES = 4  # of the positions: one each for a question and an answer at most, two for the picture


class HostView(ChatView):
    """A picture's features are what the image tower gives; what lies between tower and language model is asked anew.

    Prompts are padded on the left, and a picture may be as many vectors as it likes.
    """

    asks: ClassVar[str] = ""  # what comes before a question, though not before a request
    words: HostTokenizer

    def __init__(self, loaded: GenerativeModel) -> None:
        super().__init__(loaded)
        self.words = self.tokenizer  # type: ignore[assignment]
        self.positions: int = self.module.config.get_text_config().max_position_embeddings
        self.longest = self.positions // SHARES
        self.names = FORWARD.names(type(self.module).forward)

    @classmethod
    def layout(cls, place: str, processor: Any) -> Layout:
        """What stands around picture and question; raises what :func:`chat_layout` raises."""
        return chat_layout(place, processor)

    @classmethod
    def pixels(cls, found: Mapping[str, Any], processor: Any) -> Tensor:
        """Of what the image ``processor`` says of one picture, what :meth:`features` takes: its shape is the layout."""
        return found["pixel_values"][0]

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Of the image processor."""
        return {}

    @classmethod
    def size(cls, config: Any, processor: Any) -> tuple[int, int]:
        """Height and width of a picture that suits the model."""
        return (config.vision_config.image_size,) * 2

    @abstractmethod
    def vectors(self, features: Any) -> list[Tensor]:
        """[N, D] of each picture: what stands in the place of words. features: one tensor a picture."""

    def spelt(self, features: Tensor, vectors: Tensor) -> str:
        """How a prompt spells a picture: ``vectors`` [N, D] go where its token stands."""
        return self.words.image_token * len(vectors)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.module.get_input_embeddings()(tokens)

    def read(self, features: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Raises :class:`InputError` for a picture of more vectors than the model has positions for."""
        return self._read(features, [f"{self.asks}{text}" for text in texts])

    def read_request(self, features: Any) -> tuple[Tensor, Tensor]:
        return self._read(features, [self.request] * len(features))

    def _read(self, features: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        vectors = self.vectors(features)
        rows = [
            self.words.prompt(text, self.spelt(seen, own), self.longest)[:-1]
            for text, seen, own in zip(texts, features, vectors, strict=True)
        ]
        length = max(map(len, rows))
        if length + self.longest > self.positions:
            raise InputError(
                f"A picture and its question are {length} tokens, which leaves no {self.longest} of the model's "
                f"{self.positions} positions: have its processor make pictures smaller."
            )
        filled = [[self.words.pad] * (length - len(row)) + row for row in rows]
        numbers = torch.tensor(filled, device=self.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=self.device)
        places = (numbers == self.words.picture) & (mask == 1)
        words = self.embed(numbers.masked_fill(places, self.words.bos))
        states = words.masked_scatter(places[..., None], torch.cat(vectors).to(words.dtype))
        return states, self.placed(mask, places, features)

    def placed(self, mask: Tensor, places: Tensor, features: Any) -> Tensor:
        """What :meth:`longer` and :meth:`logits` take as a mask, of int64 [B, L] that is 1 on what is read. places:
        bool [B, L], where vectors of pictures stand."""
        return mask

    def given(self, mask: Tensor, new: int) -> dict[str, Tensor]:
        """Mask and positions of the ``new`` last ones, as the model's forward names them."""
        return {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -new:]}

    def logits(self, embeddings: Tensor, mask: Tensor, last: int, cache: Any = None) -> Tensor:
        given = {"inputs_embeds": embeddings, **self.given(mask, embeddings.shape[1]), "past_key_values": cache}
        given |= {"use_cache": cache is not None, "logits_to_keep": last}
        return self.module(**{self.names.get(name, name): value for name, value in given.items()}).logits


class HostTransform:
    """A picture to what a view takes of what the model's own image processor makes of it."""

    def __init__(
        self, processor: Any, options: dict[str, Any], arrange: Callable[[Mapping[str, Any], Any], Tensor]
    ) -> None:
        self.processor, self.options, self.arrange = processor, options, arrange

    def __call__(self, image: Image.Image) -> Tensor:
        found = self.processor(images=[read(image)], return_tensors="pt", **self.options)
        return self.arrange(found, self.processor)
