"""What stands for the encoder where features were extracted by somebody else: it knows no pictures and no texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from PIL import Image
from torch import Tensor

from vlmadapt.backbones.base import Encoder, TokenInputs, fingerprint_of
from vlmadapt.errors import InputError

UNKNOWN = "given features"  # the name of an encoder that no file names


class GivenEncoder(Encoder):
    """A name, a width and a scale. Whatever would need a tower raises :class:`InputError`.

    ``name`` and ``fingerprint`` are those of the backbone, where it is known.
    """

    dtype = torch.float32

    def __init__(self, name: str, fingerprint: str, width: int, logit_scale: float, device: str = "cpu") -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.width = width
        self.logit_scale = logit_scale
        self.device = torch.device(device)

    def _refuse_pictures(self) -> NoReturn:
        if self.name == UNKNOWN:
            raise InputError(
                "pictures cannot be encoded, for the features come from a file that names no backbone: give features "
                "of the same encoder, or fit on pictures."
            )
        raise InputError(
            f"pictures cannot be encoded, for only features of {self.name} are at hand: save the classifier and load "
            "it with Classifier.load or vlmadapt predict, or fit on pictures."
        )

    def transform(self, image: Image.Image) -> Tensor:
        self._refuse_pictures()

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        self._refuse_pictures()

    def token_inputs(self, texts: Sequence[str]) -> TokenInputs:
        _refuse_texts()

    def _image_features(self, pixels: Tensor) -> Tensor:
        self._refuse_pictures()

    def _text_features(self, texts: list[str]) -> Tensor:
        _refuse_texts()

    def _token_features(self, inputs: TokenInputs) -> Tensor:
        _refuse_texts()


def _refuse_texts() -> NoReturn:
    raise InputError("texts cannot be encoded, for only features are at hand: use another method, or give pictures.")


def space_of(class_names: Sequence[str], text: Tensor | None, width: int) -> str:
    """A fingerprint for features of an unknown encoder: of their width and class texts ``[C, D]``, in any order.

    Without text nothing but the width is known.
    """
    if text is None:
        return fingerprint_of([UNKNOWN, str(width), "no text"])
    rows = sorted(zip(class_names, text, strict=True), key=lambda pair: pair[0])
    return fingerprint_of([UNKNOWN, str(width)], rows)
