"""BLIP of ``transformers`` from a local folder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import safetensors
import torch
from PIL import Image
from torch import Tensor, nn

from vlmadapt.backbones.base import resolve_device
from vlmadapt.backbones.checkpoints import hub_access
from vlmadapt.backbones.generative.base import GenerativeModel, HubTokenizer, Tokenizer
from vlmadapt.backbones.generative.small import PREPROCESSOR, VOCABULARY, WordTokenizer
from vlmadapt.doors import Door
from vlmadapt.errors import FileError, InputError, MissingDependency, VlmadaptError
from vlmadapt.files import read_json
from vlmadapt.pictures import read
from vlmadapt.pictures.views import to_tensor

INSTALL = "pip install 'vlmadapt[generative]'"
CLASSES = ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")
# Those of the published BLIP models (arXiv 2201.12086), where a folder does not say.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def load_blip(place: str, device: str | torch.device, allow_download: bool) -> GenerativeModel:
    """``load_generative("blip:...")``.

    Raises :class:`MissingDependency` without transformers, :class:`FileError` for files that are missing or damaged,
    :class:`InputError` for another architecture.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingDependency(f"the model blip:{place} needs transformers: run {INSTALL}.") from error
    folder = Path(place).expanduser()
    if not folder.is_dir() and not allow_download:
        raise FileError(f"{folder} is no folder: give one that save_pretrained wrote, or allow the download.")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileError(f"{folder} could not be loaded: it has no config.json, give one that save_pretrained wrote.")
    options: dict[str, Any] = {"local_files_only": not allow_download}
    source: Any = folder if folder.is_dir() else place
    target = resolve_device(device)
    try:
        with hub_access(allow_download), _no_progress_bars():
            config = transformers.AutoConfig.from_pretrained(source, **options)
            name = (config.architectures or ["none"])[0]
            if name not in CLASSES:
                raise InputError(
                    f"{place} holds the architecture {name}: give a folder of one of {', '.join(CLASSES)}."
                )
            # Pickles are read as plain tensors only, never executed.
            model = mask_cross_attention(
                getattr(transformers, name).from_pretrained(source, weights_only=True, **options)
            )
            tokenizer = _tokenizer(source, config, options)
    except pickle.UnpicklingError as error:
        raise FileError(f"the weights of {place} are a pickle of more than tensors: convert them first.") from error
    except safetensors.SafetensorError as error:
        raise FileError(f"the weights of {place} could not be read ({error}): fetch them again.") from error
    except VlmadaptError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{place} could not be loaded: {str(error).splitlines()[0]}") from error
    side = config.vision_config.image_size
    view = PictureTransform.read(folder / PREPROCESSOR, side)
    return GenerativeModel(f"blip:{place}", model.eval().to(target), tokenizer, view, view.size)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Reading a local file takes a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# What transformers may pass along to every layer, besides what an attention uses.
PASSED_ALONG = {
    "num_items_in_batch": "only the loss divides by it",
    "output_hidden_states": "the model collects them from its layers",
    "return_dict": "the model's outermost forward sees to it",
    "use_cache": "the cache is made, or not, before the layers are called",
}
REFUSED = {
    "output_attentions": "attention probabilities are not kept, leave it out",
    "is_causal": "the mask decides, leave it out",
}
# Until transformers 5.3 a cache of fixed size was told where to write.
CACHED = ("past_key_values", "cache_position")
RENAMED = {"cache": "past_key_values"}  # transformers 5.24

ATTENTION = Door(
    "transformers",
    "BlipTextSelfAttention.forward",
    ("hidden_states", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", *CACHED),
    optional=frozenset({"cache_position"}),
    aliases=RENAMED,
    no_effect=PASSED_ALONG,
    refuses=REFUSED,
)
CROSS_ATTENTION = Door(
    "transformers",
    "BlipTextAttention.forward",
    ("hidden_states", "attention_mask", "encoder_hidden_states", *CACHED),
    optional=frozenset({"cache_position"}),
    aliases=RENAMED,
    no_effect=PASSED_ALONG,
    refuses=REFUSED,
)


def mask_cross_attention(model: nn.Module) -> nn.Module:
    """Have a BLIP's cross-attentions obey ``encoder_attention_mask``, as published BLIP models were trained with.

    In transformers 5 the mask does not reach them, so that an answer depends on the padding of its question, that is
    on the other questions of the batch. Returns ``model``, changed in place; harmless where it is not needed. Raises
    :class:`IncompatibleLibrary` where the installed transformers' attentions take other arguments than those known.
    """
    for module in model.modules():
        attention = getattr(module, "crossattention", None)
        if attention is not None:
            attention.forward = MethodType(_masked(attention), attention)
    return model


def _masked(attention: Any) -> Callable[..., Any]:
    """In place of ``BlipTextAttention.forward``, whose ``attention_mask`` is that of the encoder here."""
    spelt = ATTENTION.spelling(type(attention.self).forward)

    def forward(
        attention: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        **cached: Any,
    ) -> tuple[Any, ...]:
        attended = attention.self(
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=attention_mask,
            **{spelt[name]: value for name, value in cached.items() if value is not None},
        )
        return attention.output(attended[0], hidden_states), *attended[1:]

    return CROSS_ATTENTION.replace(type(attention).forward, forward)


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
