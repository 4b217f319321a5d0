"""Made-up pictures and a small encoder for the tests of this folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def colour_of(key: str) -> tuple[int, int, int]:
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return digest[0], digest[1], digest[2]


def make_picture(path: Path, key: str | None = None, size: tuple[int, int] = (8, 6)) -> Path:
    """A one-colour PNG whose colour depends on ``key`` (default: the path): different keys, different bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour_of(key or str(path))).save(path)
    return path


def make_classes(root: Path, counts: dict[str, int]) -> Path:
    """``root/<class>/<number>.png``: the same file names in every class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            make_picture(root / name / f"{number}.png")
    return root


def coop_file(path: Path, **splits: Iterable[tuple[str, int, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({split: [list(row) for row in rows] for split, rows in splits.items()}))
    return path


class FakeEncoder:
    """Features are a fixed linear map of an 8 x 8 picture; counts how many pictures it has encoded."""

    name = "fake"

    def __init__(self, width: int = 5, weight_seed: int = 0, shift: float = 0.0) -> None:
        self.width = width
        self.weights = torch.randn(3 * 8 * 8, width, generator=torch.Generator().manual_seed(weight_seed))
        self.fingerprint = hashlib.sha256(self.weights.numpy().tobytes()).hexdigest()
        self.shift = shift  # part of the transform that the fingerprint does not know
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.encoded = 0

    def transform(self, image: Image.Image) -> Tensor:
        assert image.mode == "RGB"
        pixels = np.asarray(image.resize((8, 8)), dtype=np.float32) / 255 + self.shift
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        return self.transform(image) + torch.rand(3, 8, 8, generator=generator)

    def encode_images(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        self.encoded += len(pixels)
        features = pixels.flatten(1) @ self.weights
        return torch.nn.functional.normalize(features, dim=-1) if normalize else features
