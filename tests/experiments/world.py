"""A tiny world for the tests: pictures whose class is their colour, and an encoder that sees colours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize as unit

from vlmadapt.backbones import Encoder
from vlmadapt.backbones.base import Precision, TokenInputs

COLOURS = {"apple": (190, 70, 70), "fish": (70, 80, 190), "leaf": (80, 180, 90), "sun": (190, 180, 80)}
# Small searches: a fit then takes milliseconds.
GRID = "search_beta=[1,4,2]:search_alpha=[1,4,2]"
TIP, TIP_F = f"tip-adapter:{GRID}", f"tip-adapter-f:epochs=2:{GRID}"
SIDE = 4
WIDTH = 16


def make_world(
    root: Path, train: int = 5, val: int = 3, test: int = 4, classes: Sequence[str] = tuple(COLOURS)
) -> Path:
    """``root/{train,val,test}/<class>/<number>.png``, noisy squares in the colour of their class."""
    counts = {"train": train, "val": val, "test": test}
    for number, name in enumerate(classes):
        for part, (split, count) in enumerate(counts.items()):
            for index in range(count):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng([number, part, index]).normal(0, 90, (SIDE, SIDE, 3))
                pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path)
    return root


class ColourEncoder(Encoder):
    """Pictures go through a fixed random map; a text's feature is that of its class's plain colour."""

    name = "colours"
    width = WIDTH
    logit_scale = 20.0
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, version: str = "1") -> None:
        generator = torch.Generator().manual_seed(5)
        self.map = torch.randn(3 * SIDE * SIDE, WIDTH, generator=generator)
        self.fingerprint = hashlib.sha256(f"colours {version}".encode()).hexdigest()
        self.pictures_encoded = 0

    def transform(self, image: Image.Image) -> Tensor:
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        return self.transform(image) + 0.05 * torch.rand(3, SIDE, SIDE, generator=generator)

    def encode_images(self, pixels: Tensor, normalize: bool = True, precision: Precision = "fp32") -> Tensor:
        self.pictures_encoded += len(pixels)
        features = self._image_features(pixels)
        return unit(features, dim=-1) if normalize else features

    def encode_texts(self, texts: Sequence[str], normalize: bool = True) -> Tensor:
        plain = [next(rgb for name, rgb in COLOURS.items() if name in text) for text in texts]
        pixels = torch.tensor(plain, dtype=torch.float32)[:, :, None, None].expand(-1, -1, SIDE, SIDE) / 255
        features = (pixels.flatten(1) - 0.4) @ self.map
        return unit(features, dim=-1) if normalize else features

    def token_inputs(self, texts: Sequence[str]) -> TokenInputs:
        raise NotImplementedError

    def _image_features(self, pixels: Tensor) -> Tensor:
        return (pixels.flatten(1) - 0.4) @ self.map

    def _text_features(self, texts: list[str]) -> Tensor:
        raise NotImplementedError

    def _token_features(self, inputs: TokenInputs) -> Tensor:
        raise NotImplementedError
