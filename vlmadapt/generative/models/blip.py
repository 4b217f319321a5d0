"""BLIP of ``transformers`` (arXiv 2201.12086): loading, the tasks' view of it, and where it is adapted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlmadapt.backbones.base import resolve_device
from vlmadapt.errors import FileError
from vlmadapt.files import read_json
from vlmadapt.generative.models.base import GenerativeModel, HubTokenizer, Tokenizer
from vlmadapt.generative.models.blip_attention import find_sites, mask_cross_attention, text_layers
from vlmadapt.generative.models.family import LoadedFamily
from vlmadapt.generative.models.hub import Pretrained, public_name
from vlmadapt.generative.models.probe import SEARCH, TOKENS, Probe
from vlmadapt.generative.models.sites import Sites
from vlmadapt.generative.models.small import PREPROCESSOR, VOCABULARY, WordTokenizer
from vlmadapt.generative.models.text import Targets
from vlmadapt.generative.models.view import Answerer, Captioner, TaskModel
from vlmadapt.pictures import read
from vlmadapt.pictures.views import to_tensor

CLASSES = ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")
# Those of the published BLIP models (arXiv 2201.12086), where a folder does not say.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def load_blip(place: str, device: str | torch.device, allow_download: bool) -> GenerativeModel:
    """``load_generative("blip:...")``.

    Raises :class:`MissingDependency` without transformers, :class:`FileError` for files that are missing or damaged,
    :class:`InputError` for another architecture.
    """
    stored = Pretrained("blip", place, allow_download)
    target = resolve_device(device)
    with stored.reading():
        model: Any = mask_cross_attention(stored.model(CLASSES))
        tokenizer = _tokenizer(stored.source, model.config, stored.options)
    side = model.config.vision_config.image_size
    view = PictureTransform.read(stored.folder / PREPROCESSOR, side)
    return GenerativeModel(f"blip:{place}", model.to(target), tokenizer, view, view.size)


class PictureTransform:
    """Bicubic resize to a fixed size, to [0, 1], minus mean, over deviation: what ``BlipImageProcessor`` does."""

    def __init__(self, size: tuple[int, int], mean: Any = MEAN, std: Any = STD):
        self.size = size
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)

    @classmethod
    def read(cls, path: Path, side: int) -> PictureTransform:
        """From a ``preprocessor_config.json``; without one, the published models' numbers at the model's size.

        Raises :class:`FileError` where it lacks a number.
        """
        if not path.is_file():
            return cls((side, side))
        content = read_json(path)
        try:
            size = content.get("size", {"height": side, "width": side})
            height, width = int(size["height"]), int(size["width"])
            view = cls((height, width), content.get("image_mean", MEAN), content.get("image_std", STD))
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            shown = json.dumps(content)[:80]
            raise FileError(
                f"{path} holds {shown}: give size, image_mean and image_std as BLIP's folders do."
            ) from error
        return view

    def __call__(self, image: Image.Image) -> Tensor:
        height, width = self.size
        resized = read(image).resize((width, height), Image.Resampling.BICUBIC)
        return (to_tensor(resized).float() / 255 - self._mean) / self._std


def _tokenizer(source: Any, config: Any, options: dict[str, Any]) -> Tokenizer:
    if isinstance(source, Path) and (source / VOCABULARY).is_file():
        return WordTokenizer.load(source)
    from transformers import AutoTokenizer

    return HubTokenizer(AutoTokenizer.from_pretrained(source, **options), config.text_config.bos_token_id)


class _Blip(TaskModel):
    def __init__(self, loaded: GenerativeModel) -> None:
        super().__init__(loaded)
        self.longest = self.module.config.text_config.max_position_embeddings

    @property
    def tower(self) -> nn.Module:
        return self.module.vision_model

    def features(self, pixels: Tensor) -> Tensor:
        return self.module.vision_model(pixel_values=pixels).last_hidden_state

    def _decode(self, states: Tensor, mask: Tensor | None, targets: Targets) -> Tensor:
        return self.module.text_decoder(
            input_ids=targets.inputs,
            attention_mask=targets.mask,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
        ).logits

    def _generate(self, start: Tensor, states: Tensor, mask: Tensor, beams: int, longest: int) -> Tensor:
        # The decoder's own generate, with the question's mask: BlipForQuestionAnswering.generate attends to padding.
        with torch.no_grad():
            return self.module.text_decoder.generate(
                input_ids=start,
                attention_mask=torch.ones_like(start),
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                num_beams=beams,
                max_new_tokens=min(longest, self.longest - start.shape[1]),
                do_sample=False,
                eos_token_id=self.tokenizer.sep,
                pad_token_id=self.tokenizer.pad,
                bos_token_id=self.tokenizer.bos,
            )


class BlipCaptioner(_Blip, Captioner):
    """``transformers.BlipForConditionalGeneration``."""

    def caption_logits(self, features: Tensor, targets: Targets) -> Tensor:
        return self._decode(features, None, targets)

    def describe(self, features: Tensor, prompt: str, beams: int, longest: int) -> list[str]:
        start = self.opening(prompt)
        inputs = torch.tensor([start] * len(features), device=features.device)
        mask = torch.ones(features.shape[:2], dtype=torch.int64, device=features.device)
        return self.decode(self._generate(inputs, features, mask, beams, longest)[:, len(start) :])


class BlipAnswerer(_Blip, Answerer):
    """``transformers.BlipForQuestionAnswering``, its cross-attentions made to obey their mask."""

    def __init__(self, loaded: GenerativeModel) -> None:
        super().__init__(loaded)
        mask_cross_attention(self.module)

    def read(self, features: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        numbers, mask = self.prompts(texts)
        seen = torch.ones(features.shape[:2], dtype=torch.int64, device=features.device)
        states = self.module.text_encoder(
            input_ids=numbers, attention_mask=mask, encoder_hidden_states=features, encoder_attention_mask=seen
        ).last_hidden_state
        return states, mask

    def answer_logits(self, states: Tensor, mask: Tensor, targets: Targets) -> Tensor:
        return self._decode(states, mask, targets)

    def reply(self, states: Tensor, mask: Tensor, beams: int, longest: int) -> list[str]:
        start = torch.full((len(states), 1), self.tokenizer.bos, device=states.device)
        return self.decode(self._generate(start, states, mask, beams, longest)[:, 1:])


class BlipProbe(Probe):
    library = "transformers"

    def _image(self) -> Tensor:
        return self.model.vision_model(pixel_values=self.pixels(self.model.config.vision_config.image_size))[0]

    def _question(self) -> Tensor:
        """What the text decoder attends to."""
        image = self._image()
        if not hasattr(self.model, "text_encoder"):
            return image
        return self.model.text_encoder(self._start(), encoder_hidden_states=image)[0]

    def _start(self) -> Tensor:
        text = self.model.config.text_config
        return self.tokens(text.vocab_size, text.bos_token_id)

    def logits(self) -> Tensor:
        if not hasattr(self.model, "text_decoder"):  # retrieval
            return self.model.text_encoder(self._start(), encoder_hidden_states=self._image())[0]
        states = self._question()
        return self.model.text_decoder(self._start(), encoder_hidden_states=states, use_cache=False).logits

    def text(self, use_cache: bool) -> Any:
        if not hasattr(self.model, "text_decoder"):
            return None
        states, start = self._question(), self._start()[:, :1]
        given = {"encoder_hidden_states": states, "encoder_attention_mask": states.new_ones(states.shape[:2]).long()}
        lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
        return self.model.text_decoder.generate(
            start, attention_mask=torch.ones_like(start), use_cache=use_cache, **given, **lengths, **SEARCH
        )


class Blip(LoadedFamily):
    """BLIP for captioning, question answering and retrieval."""

    name = "blip"
    forms = ("blip:FOLDER",)
    classes = CLASSES
    supported = f"transformers' {CLASSES[0]}, {CLASSES[1]} and {CLASSES[2]}"
    tower = "vision_model."
    views = MappingProxyType({CLASSES[0]: BlipCaptioner, CLASSES[1]: BlipAnswerer})
    probe = BlipProbe

    def load(self, place: str, device: str | torch.device, allow_download: bool) -> GenerativeModel:
        """A folder, or with ``allow_download`` a repository of the hub; raises what :func:`load_blip` raises."""
        return load_blip(place, device, allow_download)

    def matches(self, model: nn.Module) -> bool:
        """Any model with a text layer of BLIP's."""
        return any(True for _ in text_layers(model))

    def sites(self, model: nn.Module) -> Sites:
        """Every text layer's; raises what :func:`find_sites` raises."""
        return find_sites(model)

    def lora_targets(self, model: nn.Module) -> list[nn.Module]:
        """The query and value projections of the text attentions."""
        owners: list[Any] = [site.owner for site in self.sites(model).attentions]
        return [projection for owner in owners for projection in (owner.self.query, owner.self.value)]

    def public_name(self, name: str) -> str:
        """``blip:/home/me/model`` -> ``blip:model``."""
        return public_name(self.name, super().public_name(name))
