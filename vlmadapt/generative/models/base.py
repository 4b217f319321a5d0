"""A loaded generative image-text model with what feeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from torch import Tensor, nn

from vlmadapt.errors import MissingDependency


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
    """In evaluation mode."""
    tokenizer: Tokenizer
    transform: Callable[[Image.Image], Tensor]
    """A picture to float32 [3, H, W], or what else the model's image tower is given of one picture, on the CPU."""
    image_size: tuple[int, int]
    """H and W; of a picture that suits the model, where it reads any."""


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


def transformers_for(what: str) -> Any:
    """The package ``transformers``, which takes a second to import. Raises :class:`MissingDependency` without it."""
    try:
        import transformers
    except ImportError as error:
        raise MissingDependency(f"{what} needs transformers: run pip install 'vlmadapt[generative]'.") from error
    return transformers


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """None of transformers' own: reading a local file takes a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
