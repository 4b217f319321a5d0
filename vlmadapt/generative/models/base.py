"""A generative image-text model with what feeds it, and the factory that loads one by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from vlmadapt.errors import InputError


class Tokenizer(Protocol):
    """Text to numbers and back. Special tokens: ``pad``; ``cls`` begins an encoder's text, ``bos`` a decoder's;
    ``sep`` ends both."""

    pad: int
    cls: int
    sep: int
    bos: int

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token numbers, without special ones."""
        ...

    def decode(self, numbers: Sequence[int]) -> str:
        """The text up to the first ``sep``, without special tokens."""
        ...


@dataclass(frozen=True)
class GenerativeModel:
    """What :func:`load_generative` returns."""

    name: str
    """What :func:`load_generative` was given."""
    model: nn.Module
    """In evaluation mode; a class of transformers' BLIP, or open_clip's CoCa."""
    tokenizer: Tokenizer
    transform: Callable[[Image.Image], Tensor]
    """A picture to float32 [3, H, W], on the CPU."""
    image_size: tuple[int, int]
    """H and W."""


class HubTokenizer:
    """A tokenizer of ``transformers`` as a :class:`Tokenizer`; ``bos`` is the model's own."""

    def __init__(self, tokenizer: Any, bos: int):
        self.tokenizer = tokenizer
        self.pad: int = tokenizer.pad_token_id
        self.cls: int = tokenizer.cls_token_id
        self.sep: int = tokenizer.sep_token_id
        self.bos = bos

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, numbers: Sequence[int]) -> str:
        kept = [number for number in up_to(numbers, self.sep) if number != self.bos]
        return self.tokenizer.decode(kept, skip_special_tokens=True).strip()


def up_to(numbers: Sequence[int], end: int) -> list[int]:
    """``numbers`` before the first ``end``."""
    numbers = [int(number) for number in numbers]
    return numbers[: numbers.index(end)] if end in numbers else numbers


def load_generative(name: str, device: str | torch.device = "cpu", allow_download: bool = False) -> GenerativeModel:
    """Load a generative model by name.

    ``"blip:/path/to/folder"``
        a BLIP of ``transformers`` for captioning, question answering or retrieval, as ``save_pretrained`` writes it;
        with ``allow_download`` also a repository of the Hugging Face hub, ``"blip:OWNER/NAME"``;
    ``"coca:coca_ViT-B-32@/path/to/file.safetensors"``
        an open_clip CoCa with a local checkpoint (``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` read with
        ``weights_only=True``);
    ``"coca:coca_ViT-B-32/laion2b_s13b_b90k"``
        one by pretrained tag, from the local hub cache;
    ``"coca:coca_ViT-B-32@random"``
        the architecture with seeded random weights, for tests.

    Nothing is fetched from a network unless ``allow_download`` is true and ``HF_HUB_OFFLINE`` is not set. Raises
    :class:`InputError` for an unknown name, :class:`MissingDependency` for an absent package or weight file and
    :class:`FileError` for a folder or checkpoint that cannot be read.
    """
    family, _, rest = name.partition(":")
    if family == "blip" and rest:
        from vlmadapt.generative.models.blip import load_blip

        return load_blip(rest, device, allow_download)
    if family == "coca" and rest:
        from vlmadapt.generative.models.coca import load_coca

        return load_coca(rest, device, allow_download)
    raise InputError(
        f"name is {name!r}, which is no generative model: use 'blip:FOLDER', 'coca:ARCH@CHECKPOINT' or 'coca:ARCH/TAG'."
    )
