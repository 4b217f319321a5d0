"""A small BLIP (arXiv 2201.12086), architecture of ``transformers``, for training from scratch on 64-pixel pictures.

Ours: the sizes, and a vocabulary of whole words kept as JSON beside the weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlmadapt.errors import FileError, InputError, naming_file
from vlmadapt.files import naming_tensors, read_versioned, write_json, write_versioned
from vlmadapt.generative.models.base import transformers_for

VOCABULARY = "vocabulary.json"
FORMAT = 1  # of the vocabulary
PREPROCESSOR = "preprocessor_config.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]")

# Of the pictures: light backgrounds come out near zero, so that shapes stand out from the start.
MEAN, STD = 0.93, 0.3

Kind = Literal["vqa", "caption"]


class WordTokenizer:
    """Lower-case words and punctuation marks as tokens; words outside the vocabulary become ``[UNK]``."""

    def __init__(self, words: Iterable[str]) -> None:
        self.tokens = [*SPECIAL, *sorted(set(words) - set(SPECIAL))]
        self._id = {token: number for number, token in enumerate(self.tokens)}
        self.pad, self.unknown, self.cls, self.sep, self.bos = range(len(SPECIAL))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Token numbers, without special ones."""
        return [self._id.get(word, self.unknown) for word in split_words(text)]

    def decode(self, numbers: Sequence[int]) -> str:
        """The words up to the first ``[SEP]``, without special tokens."""
        numbers = list(numbers)
        if self.sep in numbers:
            numbers = numbers[: numbers.index(self.sep)]
        words = [self.tokens[number] for number in numbers if number >= len(SPECIAL) or number == self.unknown]
        return re.sub(r" (?=[^\w\s\[])", "", " ".join(words))

    def save(self, folder: Path) -> None:
        write_versioned(folder / VOCABULARY, {"tokens": self.tokens}, FORMAT)

    @classmethod
    def load(cls, folder: Path) -> WordTokenizer:
        """Raises :class:`FileError` naming the file when it is missing or not ours."""
        path = folder / VOCABULARY
        again = f"remove {folder.parent} and run vlmadapt tune, which trains the small model again"
        tokens = read_versioned(path, FORMAT, again).get("tokens")
        if not isinstance(tokens, list) or tuple(tokens[: len(SPECIAL)]) != SPECIAL:
            raise FileError(f"{path} is not a vocabulary of vlmadapt: train the small model again.")
        return cls(tokens[len(SPECIAL) :])


def split_words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


@dataclass(frozen=True)
class SmallBlipConfig:
    """About 1.9 M parameters for ``vqa`` and 1.4 M for ``caption`` at the defaults."""

    width: int = 128
    heads: int = 4
    vision_layers: int = 4
    text_layers: int = 2
    image_size: int = 64
    patch_size: int = 8
    max_length: int = 32


def build_small(kind: Kind, vocabulary: int, config: SmallBlipConfig | None = None) -> nn.Module:
    """An untrained ``BlipForQuestionAnswering`` (``vqa``) or ``BlipForConditionalGeneration`` (``caption``).

    Weights are drawn from torch's global generator. Raises :class:`MissingDependency` without transformers,
    :class:`InputError` for another ``kind``.
    """
    config = config or SmallBlipConfig()
    if kind not in ("vqa", "caption"):
        raise InputError(f"kind is {kind!r}: use vqa or caption.")
    transformers = transformers_for("the small model")
    common = {
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_attention_heads": config.heads,
        # 1 / sqrt(width), about: at the 0.02 meant for width 768, attention starts even and shapes are learnt late.
        "initializer_range": 0.08,
    }
    text = {
        **common,
        "vocab_size": vocabulary,
        "encoder_hidden_size": config.width,
        "num_hidden_layers": config.text_layers,
        "max_position_embeddings": config.max_length,
        "pad_token_id": SPECIAL.index("[PAD]"),
        "bos_token_id": SPECIAL.index("[DEC]"),
        "sep_token_id": SPECIAL.index("[SEP]"),
        "eos_token_id": SPECIAL.index("[SEP]"),
    }
    vision = {
        **common,
        "num_hidden_layers": config.vision_layers,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
    }
    made = transformers.BlipConfig(text_config=text, vision_config=vision)
    classes = {"vqa": "BlipForQuestionAnswering", "caption": "BlipForConditionalGeneration"}
    model = getattr(transformers, classes[kind])(made).eval()
    with torch.no_grad():
        places = waves(config.image_size // config.patch_size, config.width)
        model.vision_model.embeddings.position_embedding[0, 1:] = 1.2 * places
    return model


def waves(side: int, width: int) -> Tensor:
    """Where the positions of ``side`` x ``side`` patches start: sines and cosines of row and column, [side^2, width].

    Ours to start from: drawn small, as ``transformers`` does, places are learnt late.
    """
    quarter = width // 4
    angles = torch.arange(side)[:, None] / 100 ** (torch.arange(quarter) / quarter)
    line = torch.cat([angles.sin(), angles.cos()], 1)
    grid = torch.cat([line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)], -1)
    return nn.functional.pad(grid.reshape(side * side, -1), (0, width - 4 * quarter))


def save_small(model: Any, tokenizer: WordTokenizer, folder: Path) -> None:
    """A folder in the layout of ``transformers``, with our vocabulary and the preprocessing of the pictures.

    Raises :class:`FileError` naming what cannot be written.
    """
    side = model.config.vision_config.image_size
    with naming_tensors(folder), naming_file(folder, "write"):
        model.save_pretrained(folder)
    tokenizer.save(folder)
    size = {"height": side, "width": side}
    write_json(folder / PREPROCESSOR, {"size": size, "image_mean": [MEAN] * 3, "image_std": [STD] * 3})
