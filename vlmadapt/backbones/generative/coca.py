"""CoCa of ``open_clip``, from a local checkpoint or by pretrained tag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlmadapt.backbones.base import resolve_device
from vlmadapt.backbones.checkpoints import find_source
from vlmadapt.backbones.generative.base import GenerativeModel, HubTokenizer, Tokenizer, up_to
from vlmadapt.backbones.open_clip import INSTALL, RANDOM_SEED, build_model, build_tokenizer
from vlmadapt.errors import InputError, MissingDependency
from vlmadapt.pictures import read


def load_coca(spec: str, device: str | torch.device, allow_download: bool) -> GenerativeModel:
    """``load_generative("coca:...")``.

    Raises :class:`MissingDependency` without open_clip, :class:`InputError` for an architecture that is no CoCa.
    """
    try:
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2
    except ImportError as error:
        raise MissingDependency(f"the model coca:{spec} needs open_clip: run {INSTALL}.") from error
    source = find_source(spec, allow_download)
    if "multimodal_cfg" not in open_clip.get_model_config(source.architecture):
        known = ", ".join(name for name in open_clip.list_models() if "coca" in name.lower())
        raise InputError(
            f"name holds the architecture {source.architecture!r}, which is no CoCa: choose one of {known}."
        )
    target = resolve_device(device)
    model = build_model(spec, source, allow_download).eval()
    if source.checkpoint is None:
        _fill_projection(model)
    tokenizer = build_tokenizer(spec, source.architecture, allow_download)
    settings = PreprocessCfg(**model.visual.preprocess_cfg)
    view = image_transform_v2(settings, is_train=False)

    def transform(image: Image.Image) -> Tensor:
        return view(read(image)).float()

    return GenerativeModel(
        f"coca:{spec}", model.to(target), _as_tokenizer(tokenizer, model.pad_id), transform, settings.input_size[1:]
    )


def _fill_projection(model: Any) -> None:
    """open_clip leaves the decoder's output projection as the memory held it, NaN at times."""
    projection = model.text_decoder.text_projection
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    with torch.no_grad():
        projection.copy_(projection.shape[0] ** -0.5 * torch.randn(projection.shape, generator=generator))


class ClipTokenizer:
    """open_clip's byte-pair tokenizer; one token begins every text, in the encoder and in the decoder."""

    def __init__(self, tokenizer: Any, pad: int):
        self.tokenizer = tokenizer
        self.pad = pad
        self.cls = self.bos = int(tokenizer.sot_token_id)
        self.sep = int(tokenizer.eot_token_id)

    def __len__(self) -> int:
        return self.tokenizer.vocab_size

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, numbers: Sequence[int]) -> str:
        kept = [number for number in up_to(numbers, self.sep) if number != self.bos]
        return self.tokenizer.decode(kept).strip()


def _as_tokenizer(tokenizer: Any, pad: int) -> Tokenizer:
    if hasattr(tokenizer, "sot_token_id"):
        return ClipTokenizer(tokenizer, pad)
    return HubTokenizer(tokenizer.tokenizer, tokenizer.tokenizer.cls_token_id)
