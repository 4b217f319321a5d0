"""LLaVA of ``transformers`` (arXiv 2304.08485): where it is adapted, and the tasks' view of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.errors import InputError
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.host import HostProbe
from vlmadapt.generative.models.host_view import HostView
from vlmadapt.generative.models.loaded_host import LoadedHost


class LlavaView(HostView):
    """Features are those of the tower's layers that the projector reads."""

    def __init__(self, loaded: GenerativeModel) -> None:
        """Raises :class:`InputError` for a tower that makes as many vectors as a picture has patches."""
        super().__init__(loaded)
        if self.module.config.vision_config.model_type == "pixtral":
            raise InputError(f"model {loaded.name} has a Pixtral tower, which is not known here: give another LLaVA.")

    @property
    def tower(self) -> nn.Module:
        return self.module.model.vision_tower

    def features(self, pixels: Tensor) -> Tensor:
        config = self.module.config
        states = self.tower(pixels.to(self.module.dtype), output_hidden_states=True).hidden_states
        layers = config.vision_feature_layer
        first = int(config.vision_feature_select_strategy == "default")
        return torch.cat([states[layer][:, first:] for layer in ([layers] if isinstance(layers, int) else layers)], -1)

    def vectors(self, features: Any) -> list[Tensor]:
        return list(self.module.model.multi_modal_projector(features))


class LlavaProbe(HostProbe):
    def inputs(self) -> dict[str, Tensor]:
        config = self.model.config
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        tokens = patches + (config.vision_feature_select_strategy == "full")
        return {**self.with_picture(tokens), "pixel_values": self.pixels(vision.image_size)}


class Llava(LoadedHost):
    """LLaVA and its successors of the same class, with any language model."""

    name = "llava"
    classes = ("LlavaForConditionalGeneration",)
    text = ("model.language_model",)
    image = ("model.vision_tower",)
    probe = LlavaProbe
    view = LlavaView
