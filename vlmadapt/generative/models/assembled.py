"""The assembled generative model: a frozen image tower, a small trained projector, a frozen language model. Ours.

It is not a pretrained vision-language model and is never called one: tower and language model never saw each other,
and only the projector between them was trained (``ASSEMBLED.md``). A picture becomes a few vectors in the place of
words in the user's turn of a chat (as in LLaVA, arXiv 2304.08485), which is SmolLM2's own, without its system message:

    <|im_start|>user
    picture question<|im_end|>
    <|im_start|>assistant
    answer<|im_end|>

A caption is the answer to :data:`CAPTION`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.backbones.base import resolve_device
from vlmadapt.backbones.towers import IMAGE_SIZE, ImageTower
from vlmadapt.doors import Door
from vlmadapt.errors import InputError
from vlmadapt.generative.models import smollm2
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.chat import ChatView
from vlmadapt.generative.models.family import LoadedFamily
from vlmadapt.generative.models.interface import interface_sites, projections
from vlmadapt.generative.models.probe import SEARCH, TOKENS, Probe
from vlmadapt.generative.models.projector import PROJECTOR_FILE, Projector, load_projector
from vlmadapt.generative.models.sites import Sites
from vlmadapt.generative.models.smollm2 import Chat
from vlmadapt.generative.models.text import padded
from vlmadapt.generative.models.wrappers import unwrapped
from vlmadapt.pictures.views import to_pixels

QUARTERS = 2  # a side
PLACES = 1 + QUARTERS**2
CAPTION = ChatView.request

FORWARD = Door(
    "transformers",
    "LlamaModel.forward",
    ("attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache"),
    aliases={"cache": "past_key_values"},  # transformers 5.24
    no_effect={
        "input_ids": "inputs_embeds are given",
        "cache_position": "the cache says what has been read",
    },
)


class GridTower(nn.Module):
    """Features of the whole picture and of its overlapping quarters: pixels [B, 3, H, W] -> [B, 5, E]."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.net = tower.net

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.net.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        quarters = F.adaptive_avg_pool2d(maps, QUARTERS).flatten(2)
        return torch.cat([maps.mean((2, 3))[..., None], quarters], -1).transpose(1, 2).contiguous()


class AssembledModel(nn.Module):
    """``tower`` takes pixels to features [B, N, E], ``projector`` takes those to [B, N, D], ``language`` is a causal
    language model of transformers, D wide, with Llama's layers. ``image_size``: of a square picture."""

    def __init__(self, tower: nn.Module, projector: Projector, language: Any, image_size: int) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.language = language
        self.image_size = image_size

    def embed(self, tokens: Tensor) -> Tensor:
        """[..., D] of token numbers."""
        return self.language.get_input_embeddings()(tokens)

    def read(self, features: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """What the language model reads of pictures [B, N, E], the tokens ``before`` them int64 [K], the same for all,
        and those ``after`` them int64 [B, L]: [B, K + N + L, D]."""
        words = self.embed(after)
        picture = self.projector(features).to(words.dtype)
        return torch.cat([self.embed(before).expand(len(after), -1, -1), picture, words], 1)

    def logits(self, embeddings: Tensor, mask: Tensor, last: int, cache: Any = None) -> Tensor:
        """[B, last, vocabulary]: what follows each of the ``last`` positions.

        mask: int64, 1 on what is read, of ``embeddings`` [B, L, D] and before them of what ``cache`` holds. Padding
        may lie anywhere: positions are counted without it.
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        named = FORWARD.spelling(type(self.language.model).forward)["past_key_values"]
        given = {"inputs_embeds": embeddings, "attention_mask": mask, "position_ids": positions}
        states = self.language.model(**given, **{named: cache}, use_cache=cache is not None).last_hidden_state
        return self.language.lm_head(states[:, -last:])


class AssembledView(ChatView):
    """:class:`AssembledModel`: it describes and answers.

    What stands around picture and question is ``chat`` of the tokenizer; where it has none, its ``cls`` and ``sep``.
    """

    def __init__(self, loaded: GenerativeModel) -> None:
        super().__init__(loaded)
        words = self.tokenizer
        self.chat: Chat = getattr(words, "chat", None) or Chat([words.cls], [words.sep])
        taken = len(self.chat.before) + self.module.projector.places
        self.longest = (self.module.language.config.max_position_embeddings - taken) // 2  # question and answer each

    @property
    def tower(self) -> nn.Module:
        return self.module.tower

    def features(self, pixels: Tensor) -> Tensor:
        return self.module.tower(pixels)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.module.embed(tokens)

    def logits(self, embeddings: Tensor, mask: Tensor, last: int, cache: Any = None) -> Tensor:
        return self.module.logits(embeddings, mask, last, cache)

    def prompts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token numbers and mask ``[n, length]`` of what follows the pictures."""
        kept = self.longest - len(self.chat.after)
        rows = [[*self.tokenizer.encode(text)[:kept], *self.chat.after] for text in texts]
        mask = padded([[1] * len(row) for row in rows], 0)
        return padded(rows, self.tokenizer.pad).to(self.device), mask.to(self.device)

    def read(self, features: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        numbers, mask = self.prompts(texts)
        states = self.module.read(features, torch.tensor(self.chat.before, device=self.device), numbers)
        return states, F.pad(mask, (states.shape[1] - mask.shape[1], 0), value=1)


def generate(model: AssembledModel, embeddings: Tensor, mask: Tensor, **options: Any) -> Any:
    """What transformers' own search says after ``embeddings`` [B, L, D]: new tokens only."""
    return model.language.generate(inputs_embeds=embeddings, attention_mask=mask, **options)


class AssembledProbe(Probe):
    library = "transformers"

    def _read(self) -> Tensor:
        words = self.tokens(self.model.language.config.vocab_size, self.model.language.config.bos_token_id)
        return self.model.read(self.model.tower(self.pixels(self.model.image_size)), words[0, :1], words[:, 1:])

    def logits(self) -> Tensor:
        read = self._read()
        return self.model.logits(read, read.new_ones(read.shape[:2]).long(), TOKENS)

    def text(self, use_cache: bool) -> Any:
        read = self._read()
        lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
        mask = read.new_ones(read.shape[:2]).long()
        return generate(self.model, read, mask, use_cache=use_cache, **lengths, **SEARCH)


def load_assembled(place: str, device: str | torch.device) -> GenerativeModel:
    """``load_generative("assembled:...")``.

    Raises :class:`MissingDependency` without one of its packages, :class:`FileError` for a projector that cannot be
    read, :class:`InputError` for a language model that is not known or that the projector was not trained for.
    """
    language_name, _, path = place.partition("@")
    if language_name != smollm2.NAME:
        raise InputError(f"name holds the language model {language_name!r}: use assembled:{smollm2.NAME}.")
    target = resolve_device(device)
    projector, _ = load_projector(Path(path).expanduser() if path else PROJECTOR_FILE)
    with torch.random.fork_rng(devices=[]):  # Layers draw initial weights before they are loaded.
        tower = GridTower(ImageTower())
        language, tokenizer = smollm2.load_language(smollm2.find_weights())
    if len(projector.centre) != language.config.hidden_size or projector.places != PLACES:
        raise InputError(
            f"name holds the projector {path or PROJECTOR_FILE.name}, which makes {projector.places} vectors of "
            f"{len(projector.centre)} numbers: give one that makes {PLACES} of {language.config.hidden_size}."
        )
    model = AssembledModel(tower, projector, language, IMAGE_SIZE).eval().to(target)
    return GenerativeModel(f"assembled:{place}", model, tokenizer, to_pixels, (IMAGE_SIZE, IMAGE_SIZE))


class Assembled(LoadedFamily):
    """The embedded image tower before SmolLM2; or any :class:`AssembledModel`."""

    name = "assembled"
    forms = (f"assembled:{smollm2.NAME}", f"assembled:{smollm2.NAME}@PROJECTOR")
    classes = ("AssembledModel",)
    supported = "the assembled model"
    tower = "tower."
    views = MappingProxyType({"AssembledModel": AssembledView})
    probe = AssembledProbe

    def load(self, place: str, device: str | torch.device, allow_download: bool) -> GenerativeModel:
        """Never downloads; raises what :func:`load_assembled` raises."""
        return load_assembled(place, device)

    def matches(self, model: nn.Module) -> bool:
        """No other model than :class:`AssembledModel`."""
        return isinstance(unwrapped(model), AssembledModel)

    def sites(self, model: nn.Module) -> Sites:
        """The language model's; raises what :func:`interface_sites` raises."""
        return interface_sites(model, "language")

    def lora_targets(self, model: nn.Module) -> list[nn.Module]:
        """The query and value projections of the language model."""
        return [projection for site in self.sites(model).attentions for projection in projections(site.owner)]
