"""Qwen2-VL and Qwen2.5-VL of ``transformers`` (arXiv 2409.12191, 2502.13923): where they are adapted, and the tasks'
view of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.generative.models.host import HostProbe
from vlmadapt.generative.models.host_view import HostView
from vlmadapt.generative.models.loaded_host import LoadedHost

SIDE = 2  # of the probe's picture, in merged patches
SUITS = 8  # merged patches a side


class QwenVLView(HostView):
    """A picture keeps its shape: its features are [h, w, D] of merged patches. A mask is int64 [B, 4, L], the mask
    itself and three positions of each token (M-RoPE, arXiv 2409.12191, section 2.1)."""

    @classmethod
    def pixels(cls, found: Mapping[str, Any], processor: Any) -> Tensor:
        """[h, w, values] of merged patches: the processor puts the patches of each one after the other."""
        [[_, height, width]] = found["image_grid_thw"].tolist()
        return found["pixel_values"].reshape(height // processor.merge_size, width // processor.merge_size, -1)

    @classmethod
    def size(cls, config: Any, processor: Any) -> tuple[int, int]:
        return (SUITS * config.vision_config.patch_size * config.vision_config.spatial_merge_size,) * 2

    @property
    def tower(self) -> nn.Module:
        return self.module.model.visual

    def features(self, pixels: Tensor) -> Tensor:
        pictures, height, width, _ = pixels.shape
        side = self.module.config.vision_config.spatial_merge_size
        grid = torch.tensor([[1, side * height, side * width]] * pictures, device=pixels.device)
        patches = pixels.reshape(pictures * height * width * side**2, -1).to(self.module.dtype)
        return self.tower(patches, grid_thw=grid).pooler_output.unflatten(0, (pictures, height, width))

    def vectors(self, features: Any) -> list[Tensor]:
        return [feature.flatten(0, 1) for feature in features]

    def placed(self, mask: Tensor, places: Tensor, features: Any) -> Tensor:
        """Text is counted; a picture's rows and columns are, and what follows goes on behind the longer side."""
        steps = mask.masked_fill(places, 0)
        for row, (here, feature) in enumerate(zip(places, features, strict=True)):
            steps[row, here.nonzero()[-1]] = max(feature.shape[:2])
        positions = torch.stack([(steps.cumsum(1) - steps) * mask] * 3, 1)
        for row, (here, feature) in enumerate(zip(places, features, strict=True)):
            height, width = feature.shape[:2]
            down, across = (torch.arange(side, device=mask.device) for side in (height, width))
            positions[row, 1, here] += down.repeat_interleave(width)
            positions[row, 2, here] += across.repeat(height)
        return torch.cat([mask[:, None], positions], 1)

    def longer(self, mask: Tensor, answer: Tensor) -> Tensor:
        after = mask[:, 1:].amax((1, 2))[:, None] + answer.cumsum(1)
        return torch.cat([mask, torch.stack([answer, *[after * answer] * 3], 1)], -1)

    def given(self, mask: Tensor, new: int) -> dict[str, Tensor]:
        return {"attention_mask": mask[:, 0], "position_ids": mask[:, 1:, -new:].transpose(0, 1)}


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


class QwenVL(LoadedHost):
    """Qwen2-VL and Qwen2.5-VL."""

    name = "qwen-vl"
    classes = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
    text = ("model.language_model",)
    image = ("model.visual",)
    probe = QwenVLProbe
    view = QwenVLView
