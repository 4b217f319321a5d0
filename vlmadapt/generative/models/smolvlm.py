"""SmolVLM and Idefics3 of ``transformers`` (arXiv 2504.05299, 2408.12637): where they are adapted, and the tasks' view
of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.generative.models.host import HostProbe
from vlmadapt.generative.models.host_view import HostView
from vlmadapt.generative.models.loaded_host import LoadedHost


class SmolVLMView(HostView):
    """A picture is rows and columns of tiles, and a tile of the whole. It is kept as [rows + 1, columns, ...], the
    whole first in the last row and nothing behind it; without other tiles as [1, 1, ...]."""

    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"return_row_col_info": True}

    @classmethod
    def pixels(cls, found: Mapping[str, Any], processor: Any) -> Tensor:
        """[rows + 1, columns, 3, S, S]."""
        [[rows]], [[columns]] = found["rows"], found["cols"]
        return _in_rows(found["pixel_values"][0], rows + 1, max(columns, 1))

    @property
    def tower(self) -> nn.Module:
        return self.module.model.vision_model

    def features(self, pixels: Tensor) -> Tensor:
        pictures, rows, columns = pixels.shape[:3]
        tiles = torch.cat([_tiles(picture) for picture in pixels])
        states = self.tower(pixel_values=tiles.to(self.module.dtype)).last_hidden_state
        return torch.stack([_in_rows(own, rows, columns) for own in states.chunk(pictures)])

    def vectors(self, features: Any) -> list[Tensor]:
        tiles = [_tiles(feature) for feature in features]
        vectors = self.module.model.connector(torch.cat(tiles))
        return [own.flatten(0, 1) for own in vectors.split([len(own) for own in tiles])]

    def spelt(self, features: Tensor, vectors: Tensor) -> str:
        words = self.words.tokenizer
        around = getattr(words, "fake_image_token", "<fake_token_around_image>")
        whole = getattr(words, "global_image_token", "<global-img>")
        tile = self.words.image_token * (len(vectors) // len(_tiles(features)))
        rows = [
            "".join(f"{around}<row_{row}_col_{column + 1}>{tile}" for column in range(features.shape[1])) + "\n"
            for row in range(1, features.shape[0])
        ]
        return "".join([*rows, "\n"] if rows else []) + f"{around}{whole}{tile}{around}"


def _in_rows(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """[tiles, ...] as [rows, columns, ...], zeros behind them."""
    missing = rows * columns - len(tiles)
    return F.pad(tiles, (0, 0) * (tiles.dim() - 1) + (0, missing)).unflatten(0, (rows, columns))


def _tiles(picture: Tensor) -> Tensor:
    """What :func:`_in_rows` was given."""
    rows, columns = picture.shape[:2]
    return picture.flatten(0, 1)[: (rows - 1) * columns + 1]


class SmolVLMProbe(HostProbe):
    def inputs(self) -> dict[str, Tensor]:
        config = self.model.config
        vision = config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
        return {**self.with_picture(tokens), "pixel_values": self.pixels(vision.image_size)[None]}


class SmolVLM(LoadedHost):
    """SmolVLM and Idefics3."""

    name = "smolvlm"
    classes = ("SmolVLMForConditionalGeneration", "Idefics3ForConditionalGeneration")
    text = ("model.text_model",)
    image = ("model.vision_model",)
    probe = SmolVLMProbe
    view = SmolVLMView
