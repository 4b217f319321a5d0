"""CoCa of ``open_clip`` (arXiv 2205.01917): loading, the tasks' view of it, and where it is adapted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlmadapt.backbones.base import resolve_device
from vlmadapt.backbones.checkpoints import find_source
from vlmadapt.backbones.open_clip import INSTALL, RANDOM_SEED, build_model, build_tokenizer
from vlmadapt.doors import Door
from vlmadapt.errors import InputError, MissingDependency
from vlmadapt.generative.models.base import GenerativeModel, HubTokenizer, Tokenizer, up_to
from vlmadapt.generative.models.family import LoadedFamily
from vlmadapt.generative.models.generation import generate
from vlmadapt.generative.models.multihead import multihead_site
from vlmadapt.generative.models.probe import SEARCH, TOKENS, Probe
from vlmadapt.generative.models.sites import (
    AttentionKind,
    FeedForwardSite,
    Sites,
    feed_forward_adapter,
)
from vlmadapt.generative.models.text import Targets
from vlmadapt.generative.models.view import Captioner
from vlmadapt.generative.models.wrappers import unwrapped
from vlmadapt.pictures import read

MODULE = "open_clip.transformer"
FEED_FORWARD = Door("torch", "nn.Sequential.forward", ("input",))


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


def find_sites(model: Any) -> Sites:
    """Both halves of CoCa's text decoder, the unimodal ``text`` (where it is open_clip's own) and ``text_decoder``.

    Raises :class:`InputError` for attentions of another class than torch's.
    """
    text, decoder = unwrapped(model.text), unwrapped(model.text_decoder)
    groups: list[tuple[str, AttentionKind, Any]] = [
        ("text_decoder.resblocks", "self", decoder.resblocks),
        ("text_decoder.cross_attn", "cross", decoder.cross_attn),
    ]
    if isinstance(text, sys.modules[MODULE].TextTransformer):
        groups.insert(0, ("text.transformer.resblocks", "self", text.transformer.resblocks))
    attentions, feed_forwards = [], []
    feed_forward = FEED_FORWARD.replace(nn.Sequential.forward, _feed_forward)
    for prefix, kind, blocks in groups:
        for number, block in enumerate(map(unwrapped, blocks)):
            name = f"{prefix}.{number}"
            if not isinstance(getattr(block, "attn", None), nn.MultiheadAttention):
                raise InputError(
                    f"model's {name} has a {type(getattr(block, 'attn', None)).__name__} for its attention, which is "
                    "not adapted here: use a CoCa configuration with open_clip's default blocks."
                )
            attentions.append(multihead_site(f"{name}.attn", block.attn, kind))
            first = block.mlp.c_fc.weight
            feed_forwards.append(
                FeedForwardSite(f"{name}.mlp", block, first.shape[1], first, [(block.mlp, feed_forward)], block.mlp)
            )
    return Sites(attentions, feed_forwards)


def _feed_forward(block: Any, input: Tensor) -> Tensor:
    """In place of the forward of ``block.mlp``; the adapter is a child of the block, since ``mlp`` is a sequence."""
    return type(block.mlp).forward(block.mlp, input) + feed_forward_adapter(block)(input)


class CocaCaptioner(Captioner):
    """open_clip's CoCa."""

    def __init__(self, loaded: GenerativeModel) -> None:
        super().__init__(loaded)
        self.longest = self.module.context_length

    @property
    def tower(self) -> nn.Module:
        return self.module.visual

    def features(self, pixels: Tensor) -> Tensor:
        return self.module._encode_image(pixels)[1]

    def caption_logits(self, features: Tensor, targets: Targets) -> Tensor:
        return self.module.text_decoder(features, self.module._encode_text(targets.inputs)[1])

    def describe(self, features: Tensor, prompt: str, beams: int, longest: int) -> list[str]:
        start = self.opening(prompt)
        inputs = torch.tensor([start] * len(features), device=features.device)
        options: dict[str, Any] = {
            "start_token": self.tokenizer.bos,
            "end_token": self.tokenizer.sep,
            "num_beams": beams,
        }
        longest = min(longest, self.longest - len(start))
        told = generate(self.module, features, inputs, max_new_tokens=longest, **options)
        return self.decode(told[:, len(start) :])


class CocaProbe(Probe):
    library = "open_clip_torch"

    def _picture(self) -> Tensor:
        size: Any = self.model.visual.image_size
        return self.pixels(size[0] if isinstance(size, (tuple, list)) else size)

    def _start(self) -> Tensor:
        return self.tokens(self.model.text.vocab_size, 1)

    def logits(self) -> Tensor:
        tokens = self.model._encode_image(self._picture())[1]
        return self.model.text_decoder(tokens, self.model._encode_text(self._start())[1])

    def text(self, use_cache: bool) -> Any:
        start, end = 1, self.model.text.vocab_size - 1
        lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
        return generate(
            self.model,
            self._picture(),
            self._start()[:, :1],
            use_cache=use_cache,
            start_token=start,
            end_token=end,
            **lengths,
            **SEARCH,
        )


class Coca(LoadedFamily):
    """CoCa, which describes pictures."""

    name = "coca"
    forms = ("coca:ARCH@CHECKPOINT", "coca:ARCH/TAG")
    classes = ("CoCa",)
    supported = "open_clip's CoCa"
    tower = "visual."
    views = MappingProxyType({"CoCa": CocaCaptioner})
    probe = CocaProbe

    def load(self, place: str, device: str | torch.device, allow_download: bool) -> GenerativeModel:
        """An architecture with a checkpoint or tag; raises what :func:`load_coca` raises."""
        return load_coca(place, device, allow_download)

    def matches(self, model: nn.Module) -> bool:
        """Any model with the text decoder of open_clip's CoCa."""
        code = sys.modules.get(MODULE)  # Where it is not loaded, no such model can have been made.
        return code is not None and isinstance(
            unwrapped(getattr(model, "text_decoder", model)), code.MultimodalTransformer
        )

    def sites(self, model: nn.Module) -> Sites:
        """Those of both halves of the text decoder; raises what :func:`find_sites` raises."""
        return find_sites(model)

    def lora_targets(self, model: nn.Module) -> list[nn.Module]:
        """The linear maps of the feed-forward layers; peft adds updates to the weights of an ``nn.MultiheadAttention``
        and takes them off again at every call, which rounding does not survive."""
        layers = [site.result for site in self.sites(model).feed_forwards]
        return [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
