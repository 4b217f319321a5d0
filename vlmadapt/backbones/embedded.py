"""The embedded default: a dual encoder assembled from two towers that arrive as ordinary packages.

It is not CLIP: the towers never saw each other, and the joint space is made by small heads trained on emoji
(:mod:`vlmadapt.backbones.heads`, ``EMBEDDED.md``). It exists so that everything runs on a bare machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from PIL import Image
from torch import Tensor, nn

from vlmadapt.backbones import onednn
from vlmadapt.backbones.base import Encoder, TokenInputs, fingerprint_of, resolve_device
from vlmadapt.backbones.heads import HEADS_FILE, load_heads
from vlmadapt.backbones.onednn import FastTower
from vlmadapt.backbones.towers import (
    IMAGE_SHA256,
    IMAGE_SIZE,
    IMAGE_WIDTH,
    TEXT_SHA256,
    TEXT_WIDTH,
    ImageTower,
    TextTower,
)
from vlmadapt.files import sha256_of_file
from vlmadapt.modes import usual
from vlmadapt.pictures import read
from vlmadapt.pictures.views import normalize_pixels, random_view, to_pixels

TRANSFORM = "white square, bicubic 224, (x - 127) / 128; views: crop .5-1, ratio 3/4-4/3, mirrored"
LOGIT_SCALE = 50.0


class EmbeddedEncoder(Encoder):
    """``load_encoder("embedded")``: pictures and texts to unit vectors of width 1664; tau is 50."""

    name = "embedded"
    width = TEXT_WIDTH + IMAGE_WIDTH
    logit_scale = LOGIT_SCALE
    dtype = torch.float32
    preprocessing = MappingProxyType(
        {
            "steps": f"white square, bicubic to {IMAGE_SIZE} x {IMAGE_SIZE}, (x - 127) / 128",
            "size": [IMAGE_SIZE, IMAGE_SIZE],
            "mean": [127 / 255] * 3,
            "std": [128 / 255] * 3,
            "interpolation": "bicubic",
            "resize_mode": "longest",
            "fill_color": 255,
        }
    )

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = resolve_device(device)
        # Layers draw initial weights before they are loaded; the caller's random numbers must not notice.
        with torch.random.fork_rng(devices=[]):
            self.heads = load_heads().to(self.device)
            self.image_tower = ImageTower().to(self.device)
            self.text_tower = TextTower().to(self.device)
        self.fingerprint = fingerprint_of([self.name, TRANSFORM, IMAGE_SHA256, TEXT_SHA256, sha256_of_file(HEADS_FILE)])

    @usual()
    def transform(self, image: Image.Image) -> Tensor:
        return to_pixels(image, IMAGE_SIZE)

    @usual()
    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        return normalize_pixels(random_view(read(image), (IMAGE_SIZE, IMAGE_SIZE), generator, square=True))

    def token_inputs(self, texts: Sequence[str]) -> TokenInputs:
        return self.text_tower.token_inputs(texts)

    def text_module(self) -> nn.Module:
        return self.text_tower.net

    def _image_features(self, pixels: Tensor) -> Tensor:
        if self.fast_images is None or not onednn.takes(pixels):
            return self.heads.images(*self.image_tower(pixels))
        features = self.fast_images(pixels)
        return self.heads.images(features, self.image_tower.net.classifier(features))

    def _fast_tower(self) -> FastTower:
        return onednn.fused_convolutions(self.image_tower.net, IMAGE_SIZE)

    def _text_features(self, texts: list[str]) -> Tensor:
        return self._token_features(self.text_tower.token_inputs(texts))

    def _token_features(self, inputs: TokenInputs) -> Tensor:
        return self.heads.texts(self.text_tower(inputs))
