"""LLaVA of ``transformers`` (arXiv 2304.08485): where it is adapted."""

from __future__ import annotations

from torch import Tensor

from vlmadapt.generative.models.host import Host, HostProbe


class LlavaProbe(HostProbe):
    def inputs(self) -> dict[str, Tensor]:
        config = self.model.config
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        tokens = patches + (config.vision_feature_select_strategy == "full")
        return {**self.with_picture(tokens), "pixel_values": self.pixels(vision.image_size)}


class Llava(Host):
    """LLaVA and its successors of the same class, with any language model."""

    classes = ("LlavaForConditionalGeneration",)
    text = ("model.language_model",)
    image = ("model.vision_tower",)
    probe = LlavaProbe
