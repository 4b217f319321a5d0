"""PaliGemma of ``transformers`` (arXiv 2407.07726): where it is adapted."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.generative.models.host import Host, HostProbe


class PaliGemmaProbe(HostProbe):
    def inputs(self) -> dict[str, Tensor]:
        vision = self.model.config.vision_config
        text = self.with_picture((vision.image_size // vision.patch_size) ** 2)
        prefix = torch.zeros_like(text["input_ids"])  # as its processor says of all that is not to be learnt
        return {**text, "token_type_ids": prefix, "pixel_values": self.pixels(vision.image_size)}


class PaliGemma(Host):
    """PaliGemma; the second has soft caps on its scores, which are refused."""

    classes = ("PaliGemmaForConditionalGeneration",)
    text = ("model.language_model",)
    image = ("model.vision_tower",)
    probe = PaliGemmaProbe
