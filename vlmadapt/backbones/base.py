"""What every image-text backbone offers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NoReturn

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vlmadapt.backbones import onednn
from vlmadapt.backbones.onednn import FastTower
from vlmadapt.errors import InputError, check_finite, shape_of
from vlmadapt.kinds import of_kinds
from vlmadapt.modes import usual

TOKENS_AT_ONCE = 256
Precision = Literal["fp32", "bf16"]
AUTO, TORCH, ONEDNN = ENGINES = ("auto", "torch", "onednn")


@dataclass(frozen=True)
class TokenInputs:
    """Texts after the token table, before the transformer: where prompt learning puts its own vectors.

    ``embeddings`` float32 [T, L, E]; ``tokens`` int64 [T, L]; ``mask`` bool [T, L], true on real tokens.
    """

    embeddings: Tensor
    tokens: Tensor
    mask: Tensor


class Encoder(ABC):
    """A frozen dual encoder: pictures and texts to one space of ``width`` numbers.

    Weights do not require gradients, so encoding builds no graph of its own; gradients do flow through
    :meth:`encode_images` and :meth:`encode_tokens` to inputs that ask for them.
    """

    name: str
    """What :func:`vlmadapt.backbones.load_encoder` was given."""
    width: int
    """D, the width of the joint space."""
    logit_scale: float
    """tau: class logits are ``tau * cosine``."""
    logit_bias: float | None = None
    """b of an encoder that was trained on pairs, each by itself (SigLIP); a softmax over classes does not see it."""
    fingerprint: str
    """sha256, hexadecimal, over all weights, the transform and the architecture; feature caches key on it."""
    preprocessing: Mapping[str, Any] = MappingProxyType({})
    """What :meth:`transform` does, as words and numbers for whoever builds it elsewhere; empty where not known."""
    has_text: bool = True
    """Whether there is a text tower; a vision-only one raises :class:`InputError` where it is asked for text."""
    device: torch.device
    engine: str = TORCH
    """What computes pictures, see :func:`vlmadapt.backbones.load_encoder`; autocast and gradients take ``"torch"``."""
    fast_images: FastTower | None = None
    """The image tower of another engine than ``"torch"``."""
    dtype: torch.dtype
    """The dtype of the weights, hence of the computation outside autocast. Results are always float32."""

    @abstractmethod
    def transform(self, image: Image.Image) -> Tensor:
        """The deterministic test-time view: float32 [3, H, W], on the CPU."""

    @abstractmethod
    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        """A random-resized-crop and flip view, float32 [3, H, W]: the same generator state, the same view."""

    @abstractmethod
    def token_inputs(self, texts: Sequence[str]) -> TokenInputs:
        """Token embeddings of ``texts``; raises :class:`InputError` where the text tower exposes none."""

    def use_engine(self, engine: str) -> None:
        """Compute pictures by ``engine``: see :func:`vlmadapt.backbones.load_encoder`.

        Raises :class:`InputError` for an engine that is none, or cannot compute this tower here.
        """
        check_engine(engine)
        self.engine, self.fast_images = TORCH, None
        if engine == TORCH:
            return
        if self.device.type == "cpu" and self.dtype == torch.float32 and onednn.usable():
            self.fast_images = self._fast_tower()
        if self.fast_images is not None:
            self.engine = ONEDNN
        elif engine == ONEDNN:
            raise InputError(
                f"engine is {ONEDNN!r}, which cannot compute {self.name} on {self.device} here: use auto or torch."
            )

    def _fast_tower(self) -> FastTower | None:
        """The image tower by oneDNN's fused operators; None where it is of no kind that is known."""
        return None

    def text_module(self) -> nn.Module:
        """What texts go through: an update of its attention changes :meth:`encode_tokens`. Raises :class:`InputError`
        where the encoder shows none."""
        raise InputError(f"{self.name} shows no text tower that could be adapted: use another method.")

    def image_module(self) -> nn.Module:
        """What pictures go through: an update of its attention changes :meth:`encode_images`. Raises
        :class:`InputError` where the encoder shows no image tower with attention."""
        raise InputError(f"{self.name} shows no image tower with attention that could be adapted: set towers=text.")

    @abstractmethod
    def _image_features(self, pixels: Tensor) -> Tensor: ...

    @abstractmethod
    def _text_features(self, texts: list[str]) -> Tensor: ...

    @abstractmethod
    def _token_features(self, inputs: TokenInputs) -> Tensor: ...

    @of_kinds
    @usual()
    def encode_images(self, pixels: Tensor, normalize: bool = True, precision: Precision = "fp32") -> Tensor:
        """``pixels`` [B, 3, H, W] as :meth:`transform` gives them -> float32 [B, D].

        ``precision="bf16"`` computes under autocast to bfloat16; the caller's own autocast changes nothing. Raises
        :class:`InputError`.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(f"pixels must be [B, 3, H, W], not {shape_of(pixels)}: stack what transform() returns.")
        check_finite("pixels", pixels, "check the picture that was transformed")
        if len(pixels) == 0:
            return torch.zeros(0, self.width, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            features = self._image_features(pixels.to(self.device, self.dtype))
        return self._finish(features, normalize)

    def image_features(self, pixels: Tensor) -> Tensor:
        """:meth:`encode_images` without a look at ``pixels`` ``[B, 3, H, W]``, B >= 1: what a program is made of."""
        return self._finish(self._image_features(pixels.to(self.dtype)), normalize=True)

    @of_kinds
    @usual()
    def encode_texts(self, texts: Sequence[str], normalize: bool = True) -> Tensor:
        """``T`` texts -> float32 [T, D]. Raises :class:`InputError` unless given a sequence of strings."""
        if isinstance(texts, str):
            raise InputError(f"texts must be a sequence of strings, not the string {texts!r}: pass [{texts!r}].")
        texts = list(texts)
        for position, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise InputError(
                    f"texts[{position}] is {text!r}: every text must be a string with a visible character."
                )
        if not texts:
            return torch.zeros(0, self.width, device=self.device)
        chunks = [texts[start : start + TOKENS_AT_ONCE] for start in range(0, len(texts), TOKENS_AT_ONCE)]
        return self._finish(torch.cat([self._text_features(chunk) for chunk in chunks]), normalize)

    @usual()
    def match_probabilities(self, images: Tensor, texts: Tensor) -> Tensor:
        """Probability that picture and text belong together, each pair by itself: ``sigmoid(tau * cosine + b)``.

        ``images [B, D]`` and ``texts [T, D]`` are normalised features; ``[B, T]``, whose rows need not sum to 1
        (SigLIP, arXiv 2303.15343).
        Raises :class:`InputError` where the encoder has no ``logit_bias``.
        """
        if self.logit_bias is None:
            raise InputError(
                f"{self.name} was not trained on single pairs (it has no logit_bias): use a softmax over texts."
            )
        return torch.sigmoid(self.logit_scale * images @ texts.T + self.logit_bias)

    @usual()
    def encode_tokens(self, inputs: TokenInputs, normalize: bool = True) -> Tensor:
        """Like :meth:`encode_texts` from (possibly learned) token embeddings; differentiable in them."""
        return self._finish(self._token_features(inputs), normalize)

    @staticmethod
    def _finish(features: Tensor, normalize: bool) -> Tensor:
        features = features.float()
        return F.normalize(features, dim=-1) if normalize else features


@of_kinds
@usual()
def class_text_features(encoder: Encoder, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Prompt ensemble: the normalised mean, over ``templates``, of normalised text features, float32 [C, D].

    Each template holds ``{}`` where the class name goes. The ensemble is that of CLIP (arXiv 2103.00020, 3.1.4).
    Raises :class:`InputError` for no class, no template or a template without ``{}``.
    """
    if not class_names:
        raise InputError("class_names is empty: pass at least one class name.")
    if not templates:
        raise InputError("templates is empty: pass at least one, such as 'a photo of a {}.'.")
    for template in templates:
        if "{}" not in template:
            raise InputError(f"templates holds {template!r} without {{}}: put {{}} where the class name goes.")
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    features = encoder.encode_texts(texts).view(len(class_names), len(templates), -1)
    return F.normalize(features.mean(dim=1), dim=-1)


@of_kinds
@usual()
def prompt_features(encoder: Encoder, prompts: Sequence[Sequence[str]]) -> Tensor:
    """The same of ``C`` classes with prompts of their own, one or more each: float32 [C, D].

    Raises :class:`InputError` for a class without a prompt.
    """
    if not prompts:
        raise InputError("prompts is empty: give those of at least one class.")
    counts = [len(texts) for texts in prompts]
    if 0 in counts:
        raise InputError(f"prompts of class {counts.index(0)} are empty: give at least one text.")
    features = encoder.encode_texts([text for texts in prompts for text in texts]).split(counts)
    return F.normalize(torch.stack([each.mean(dim=0) for each in features]), dim=-1)


class PicturesOnly(Encoder):
    """An encoder without a text tower: asked for text, it says so in :class:`InputError`."""

    has_text = False

    def token_inputs(self, texts: Sequence[str]) -> TokenInputs:
        self._refuse_text()

    def _text_features(self, texts: list[str]) -> Tensor:
        self._refuse_text()

    def _token_features(self, inputs: TokenInputs) -> Tensor:
        self._refuse_text()

    def _refuse_text(self) -> NoReturn:
        raise InputError(
            f"texts cannot be encoded, for {self.name} has no text tower: use a method that can do without class text, "
            "or a backbone of pictures and texts."
        )


def check_engine(engine: str) -> None:
    """Raise :class:`InputError` with the choices for an engine that is none."""
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}: use {', '.join(ENGINES[:-1])} or {ENGINES[-1]}.")


def resolve_device(device: str | torch.device) -> torch.device:
    """``torch.device``, after a trial allocation; raises :class:`InputError` when torch cannot use it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device is {str(device)!r}, which this torch cannot use: pass 'cpu'.") from error


def fingerprint_of(parts: Iterable[str], tensors: Iterable[tuple[str, Tensor]] = ()) -> str:
    """sha256 over strings, then over named tensors (name, dtype, shape and bytes), in the order given."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    for name, tensor in tensors:
        digest.update(f"{name} {shape_of(tensor)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
