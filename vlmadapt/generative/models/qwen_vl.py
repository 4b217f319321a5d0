"""Qwen2-VL and Qwen2.5-VL of ``transformers`` (arXiv 2409.12191, 2502.13923): where they are adapted."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from vlmadapt.generative.models.host import Host, HostProbe

SIDE = 2  # of the probe's picture, in merged patches


class QwenVLProbe(HostProbe):
    def inputs(self) -> dict[str, Tensor]:
        vision = self.model.config.vision_config
        side = SIDE * vision.spatial_merge_size
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        text = self.with_picture(SIDE**2)
        text["input_ids"][0, 0] = self.model.config.vision_start_token_id
        patches = self.drawn(side**2, values)
        grid = torch.tensor([[1, side, side]], device=patches.device)
        if "mm_token_type_ids" in inspect.signature(type(self.model).forward).parameters:  # not in transformers 5.0
            text["mm_token_type_ids"] = (text["input_ids"] == self.model.config.image_token_id).int()
        return {**text, "pixel_values": patches, "image_grid_thw": grid}


class QwenVL(Host):
    """Qwen2-VL and Qwen2.5-VL."""

    classes = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
    text = ("model.language_model",)
    image = ("model.visual",)
    probe = QwenVLProbe
