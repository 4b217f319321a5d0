"""PaliGemma of ``transformers`` (arXiv 2407.07726): where it is adapted, and the tasks' view of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.generative.models.host import HostProbe
from vlmadapt.generative.models.host_view import HostView
from vlmadapt.generative.models.host_words import Layout
from vlmadapt.generative.models.loaded_host import LoadedHost

PROMPT, ANSWER = 1, 2  # in a mask


class PaliGemmaView(HostView):
    """A prompt is seen in both directions, its last token too, an answer in one. There is no chat: what is asked for
    begins the prompt, as in pretraining (section 3.2 of the paper)."""

    request = "caption en"
    asks = "answer en "

    @classmethod
    def layout(cls, place: str, processor: Any) -> Layout:
        return Layout(f"{processor.image_token}{processor.tokenizer.bos_token}", "\n")

    @property
    def tower(self) -> nn.Module:
        return self.module.model.vision_tower

    def features(self, pixels: Tensor) -> Tensor:
        return self.tower(pixels.to(self.module.dtype)).last_hidden_state

    def vectors(self, features: Any) -> list[Tensor]:
        vectors = self.module.model.multi_modal_projector(features)
        if type(self.module.get_input_embeddings()) is nn.Embedding:  # transformers 5.0 scales all that is read later
            vectors = vectors / self.module.config.text_config.hidden_size**0.5
        return list(vectors)

    def longer(self, mask: Tensor, answer: Tensor) -> Tensor:
        kinds = torch.full_like(answer, ANSWER)
        kinds[:, 0] = PROMPT
        return torch.cat([mask, kinds * answer], 1)

    def given(self, mask: Tensor, new: int) -> dict[str, Tensor]:
        read, kinds = (mask > 0).long(), (mask == ANSWER).long()
        positions = read.cumsum(1).clamp(min=1)  # the first is 1
        return {
            "attention_mask": read,
            "position_ids": positions[:, -new:],
            "token_type_ids": kinds[:, -new:],
        }


class PaliGemmaProbe(HostProbe):
    def inputs(self) -> dict[str, Tensor]:
        vision = self.model.config.vision_config
        text = self.with_picture((vision.image_size // vision.patch_size) ** 2)
        prefix = torch.zeros_like(text["input_ids"])  # as its processor says of all that is not to be learnt
        return {**text, "token_type_ids": prefix, "pixel_values": self.pixels(vision.image_size)}


class PaliGemma(LoadedHost):
    """PaliGemma; the second has soft caps on its scores, which are refused."""

    name = "paligemma"
    classes = ("PaliGemmaForConditionalGeneration",)
    text = ("model.language_model",)
    image = ("model.vision_tower",)
    probe = PaliGemmaProbe
    view = PaliGemmaView
