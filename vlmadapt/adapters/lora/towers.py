"""Both towers of an encoder: what clip-lora trains with, and the image tower once it is adapted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.lora.tower import LowRankTower, add_updates, twin
from vlmadapt.adapters.prompted import Tokens, encode_prompts
from vlmadapt.errors import InputError
from vlmadapt.pictures import read
from vlmadapt.training import fingerprint_tensors


class Towers:
    """A copy of ``encoder`` with updates in its text tower, its image tower or both, and the prompts of all classes.

    ``text`` and ``image`` are the towers that have updates, None for one that stays as it is. Raises what
    :class:`LowRankTower` raises, and :class:`InputError` for an encoder without the towers that are asked for.
    """

    def __init__(
        self,
        encoder: Any,
        texts: Sequence[str],
        rank: int,
        alpha: float,
        dropout: float,
        text: bool,
        images: bool,
    ) -> None:
        if not all(hasattr(encoder, needed) for needed in ("text_module", "token_inputs", "encode_tokens")):
            raise InputError(
                "clip-lora trains the text tower: pass encoder=, one with text_module and token_inputs, such as the "
                "embedded backbone or open_clip's."
            )
        self.encoder = twin(encoder)
        settings = rank, alpha, dropout
        self.text = LowRankTower(self.encoder.text_module(), f"text {_of(encoder)}", *settings) if text else None
        self.image = LowRankTower(self.encoder.image_module(), f"image {_of(encoder)}", *settings) if images else None
        # In an order of their own: what dropout leaves out of a class must not depend on its number.
        order = sorted(range(len(texts)), key=texts.__getitem__)
        self.prompts: Tokens = self.encoder.token_inputs([texts[number] for number in order])
        self._places = torch.tensor(order).argsort()
        self._as_it_is: Tensor | None = None

    def class_features(self, down: Tensor | None, up: Tensor | None, training: bool) -> Tensor:
        """Text features ``[C, D]`` with the updates ``down [L, r, E]`` and ``up [L, E, r]``; differentiable in them."""
        if self.text is not None and down is not None and up is not None:
            self.text.use(down, up, training)
            return self._encoded(training)
        if self._as_it_is is None:
            with torch.no_grad():
                self._as_it_is = self._encoded(False)
        return self._as_it_is

    def _encoded(self, random: bool) -> Tensor:
        features = encode_prompts(self.encoder, self.prompts, self.prompts.embeddings.detach(), random=random)
        return features[self._places.to(features.device)]


def _of(encoder: Any) -> str:
    return f"tower of {encoder.name}"


def shows_images(encoder: Any) -> bool:
    """Whether ``encoder`` has an image tower that can be adapted."""
    try:
        encoder.image_module()
    except (AttributeError, InputError):
        return False
    return True


def random_views(encoder: Any, pictures: Sequence[Any]) -> Tensor:
    """One view ``[b, 3, H, W]`` of each picture, drawn from torch's global generator."""
    views = []
    for picture in pictures:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        views.append(encoder.augment(read(picture, "features"), generator))
    return torch.stack(views)


def with_image_updates(encoder: Any, down: Tensor, up: Tensor, alpha: float) -> Any:
    """A copy of ``encoder`` whose image tower has the updates ``down [L, r, E]`` and ``up [L, E, r]`` added."""
    adapted = twin(encoder)
    add_updates(adapted.image_module(), f"image {_of(encoder)}", alpha / math.sqrt(down.shape[1]) * (up @ down))
    adapted.fingerprint = f"{encoder.fingerprint} {fingerprint_tensors(down=down, up=up)}"
    return adapted
