"""SmolVLM and Idefics3 of ``transformers`` (arXiv 2504.05299, 2408.12637): where they are adapted."""

from __future__ import annotations

from torch import Tensor

from vlmadapt.generative.models.host import Host, HostProbe


class SmolVLMProbe(HostProbe):
    def inputs(self) -> dict[str, Tensor]:
        config = self.model.config
        vision = config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
        return {**self.with_picture(tokens), "pixel_values": self.pixels(vision.image_size)[None]}


class SmolVLM(Host):
    """SmolVLM and Idefics3."""

    classes = ("SmolVLMForConditionalGeneration", "Idefics3ForConditionalGeneration")
    text = ("model.text_model",)
    image = ("model.vision_model",)
    probe = SmolVLMProbe
