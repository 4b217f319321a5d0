"""A model that somebody has loaded, as an encoder: of open_clip, of transformers, of timm, or with the same methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmadapt.backbones.base import Encoder, PicturesOnly, TokenInputs, fingerprint_of
from vlmadapt.backbones.load import WRAPPED
from vlmadapt.backbones.open_clip import OpenClipTowers
from vlmadapt.errors import InputError, shape_of
from vlmadapt.modes import usual
from vlmadapt.pictures import read
from vlmadapt.pictures.views import random_view

LOGIT_SCALE = 100.0  # CLIP's, for a model that has none
PROBE_TEXTS = ["a photo of a cat.", "two dogs"]


@usual(grad=True)
def from_model(model: Any, preprocess: Any = None, tokenizer: Any = None) -> Encoder:
    """A live model as an encoder, which ``fit`` and all else takes as ``encoder=``.

    model: of open_clip (or anything with ``encode_image`` and ``encode_text``), a CLIP or SigLIP of transformers
        (``get_image_features`` and ``get_text_features``), or of timm, which knows no text. It is put into eval mode
        and frozen, in place, and stays where it is.
    preprocess: what makes of a PIL picture the model's pixels ``[3, H, W]``, without randomness: the evaluation
        transform of open_clip or torchvision, or a processor of transformers. timm's own is made where it is left out.
    tokenizer: texts to tokens: open_clip's or transformers' (a processor has one); none for timm.

    Such an encoder has no name to load it by: wrap the model again, and give it to ``Classifier.load``.
    Raises :class:`InputError` for another model, a preprocess that is random or gives no pixels, and a missing
    tokenizer.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}: give a loaded torch model; a name goes to load_encoder.")
    if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
        return _Transformers(model, preprocess, tokenizer)
    if hasattr(model, "encode_image") and hasattr(model, "encode_text"):
        return _OpenClip(model, preprocess, tokenizer)
    if hasattr(model, "forward_features") and hasattr(model, "forward_head"):
        return _Timm(model, preprocess, tokenizer)
    raise InputError(
        f"model is a {type(model).__name__}, which has neither encode_image and encode_text (open_clip), "
        "get_image_features and get_text_features (transformers) nor forward_features and forward_head (timm): wrap it "
        "in a module that has the first two."
    )


class _Wrapped(Encoder):
    """What the kinds share: pictures through ``preprocess``, views through a random crop before it."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any) -> None:
        self.name = f"{WRAPPED}:{type(model).__name__}"
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        some = next(iter(model.parameters()), torch.zeros(()))
        self.device, self.dtype = some.device, some.dtype
        self._preprocess = _pixels_of(preprocess)
        self.preprocessing = {"steps": repr(preprocess)}
        probe = self._probe()
        height, width = probe.shape[-2:]
        self._size = (height, width)
        self.logit_scale, self.logit_bias = _scale(model)
        features = self.encode_images(probe[None], normalize=False)
        if features.dim() != 2 or len(features) != 1:
            raise InputError(f"model gives {shape_of(features)} for one picture: give one that pools to [1, D].")
        self.width = features.shape[-1]
        parts = [WRAPPED, f"{type(model).__module__}.{type(model).__qualname__}", self._says()]
        weights = sorted(model.state_dict().items())
        self.fingerprint = fingerprint_of(parts, [("probe", probe), *weights])

    def _says(self) -> str:
        """What else than the weights and the preprocess decides features, as text; checks the text tower."""
        texts = self.encode_texts(PROBE_TEXTS, normalize=False)
        if texts.shape != (len(PROBE_TEXTS), self.width):
            raise InputError(
                f"model gives {shape_of(texts)} for {len(PROBE_TEXTS)} texts but {self.width} numbers for a picture: "
                "give one whose towers end in one space."
            )
        return str(self._tokens(PROBE_TEXTS)["input_ids"].tolist())

    def _tokens(self, texts: Sequence[str]) -> Any:
        """A mapping that has ``input_ids`` ``[T, L]``, on the model's device."""
        raise NotImplementedError

    def _probe(self) -> Tensor:
        rows, columns = np.mgrid[0:67, 0:97]
        grid = np.stack([rows * 3, columns * 2, (rows * columns) % 256], axis=-1).astype(np.uint8)
        seen = [self.transform(Image.fromarray(grid)) for _ in range(3)]
        if not all(torch.equal(seen[0], other) for other in seen[1:]):
            raise InputError(
                "preprocess gives other pixels of the same picture each time: give the one for evaluation, as the "
                "third that open_clip.create_model_and_transforms returns."
            )
        return seen[0]

    @usual()
    def transform(self, image: Image.Image) -> Tensor:
        return self._preprocess(read(image))

    @usual()
    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        return self._preprocess(random_view(read(image), self._size, generator, Image.Resampling.BICUBIC))


class _OpenClip(_Wrapped, OpenClipTowers):
    """open_clip's models, OpenAI's CLIP, and what has ``encode_image`` and ``encode_text``."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any) -> None:
        if not callable(tokenizer):
            raise InputError(
                f"tokenizer is {_shown(tokenizer)}: give the model's, as open_clip.get_tokenizer(NAME) returns it."
            )
        super().__init__(model, preprocess, tokenizer)

    def _tokens(self, texts: Sequence[str]) -> Any:
        tokens = self.tokenizer(list(texts))
        if not isinstance(tokens, Tensor):
            raise InputError(
                f"tokenizer gives a {type(tokens).__name__}: give one that makes a tensor of a list of texts."
            )
        return {"input_ids": tokens.to(self.device)}

    def _text_features(self, texts: list[str]) -> Tensor:
        return self.model.encode_text(self._tokens(texts)["input_ids"])


class _Transformers(_Wrapped):
    """CLIP, SigLIP and their like of transformers."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any) -> None:
        tokenizer = getattr(tokenizer if tokenizer is not None else preprocess, "tokenizer", tokenizer)
        if not callable(tokenizer):
            raise InputError(
                f"tokenizer is {_shown(tokenizer)}: give the model's, or as preprocess its processor, as "
                "AutoProcessor.from_pretrained(NAME) returns it."
            )
        super().__init__(model, preprocess, tokenizer)

    def _tokens(self, texts: Sequence[str]) -> Any:
        text = self.model.config.text_config
        # SigLIP was trained on padded texts and takes no mask.
        whole = "siglip" in self.model.config.model_type
        tokens = self.tokenizer(
            list(texts),
            padding="max_length" if whole else True,
            truncation=True,
            max_length=text.max_position_embeddings,
            return_tensors="pt",
        )
        wanted = ("input_ids",) if whole else ("input_ids", "attention_mask")
        return {name: tokens[name].to(self.device) for name in wanted if name in tokens}

    def _image_features(self, pixels: Tensor) -> Tensor:
        return _pooled(self.model.get_image_features(pixel_values=pixels))

    def _text_features(self, texts: list[str]) -> Tensor:
        return _pooled(self.model.get_text_features(**self._tokens(texts)))

    def token_inputs(self, texts: Sequence[str]) -> TokenInputs:
        tokens = self._tokens(texts)
        ids = tokens["input_ids"]
        mask = tokens.get("attention_mask", torch.ones_like(ids))
        return TokenInputs(self._table()(ids), ids, mask.bool())

    def _token_features(self, inputs: TokenInputs) -> Tensor:
        # The model looks tokens up itself; answering for its table lets its text tower be used as it is.
        hook = self._table().register_forward_hook(lambda *_: inputs.embeddings)
        mask = {} if "siglip" in self.model.config.model_type else {"attention_mask": inputs.mask.long()}
        try:
            return _pooled(self.model.get_text_features(input_ids=inputs.tokens, **mask))
        finally:
            hook.remove()

    def _table(self) -> nn.Module:
        tower = getattr(self.model, "text_model", None)
        if tower is None or not hasattr(tower, "get_input_embeddings"):
            raise InputError(f"{self.name} shows no token table: use another method than prompt learning.")
        table: nn.Module = tower.get_input_embeddings()
        return table


class _Timm(PicturesOnly, _Wrapped):
    """timm's models: pooled features, whatever classifier follows."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any) -> None:
        if tokenizer is not None:
            raise InputError(f"tokenizer is given, but {type(model).__name__} knows no text: leave it out.")
        if preprocess is None:
            import timm.data

            # The model may have been made for another size than its weights' configuration says.
            own = getattr(getattr(model, "patch_embed", None), "img_size", None)
            config = timm.data.resolve_data_config({} if own is None else {"input_size": (3, *own)}, model=model)
            preprocess = timm.data.create_transform(**config, is_training=False)
        super().__init__(model, preprocess, tokenizer)

    def _says(self) -> str:
        return "no text"

    def _image_features(self, pixels: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)


def _pixels_of(preprocess: Any) -> Any:
    """A function of an RGB picture that gives float32 ``[3, H, W]``, whatever ``preprocess`` is."""
    own = getattr(preprocess, "image_processor", preprocess)  # of a processor
    if not callable(own):
        raise InputError(
            f"preprocess is {_shown(preprocess)}: give what makes of a PIL picture the model's pixels [3, H, W], or "
            "the model's processor."
        )
    by_name = hasattr(own, "model_input_names")  # transformers' convention

    def pixels(picture: Image.Image) -> Tensor:
        found = own(images=picture, return_tensors="pt")["pixel_values"][0] if by_name else own(picture)
        if not isinstance(found, Tensor) or found.dim() != 3 or len(found) != 3 or not found.is_floating_point():
            shape = shape_of(found) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InputError(f"preprocess gives {shape} for a picture: give one that ends in floats [3, H, W].")
        return found.float().cpu()

    return pixels


def _pooled(output: Any) -> Tensor:
    """The features, which transformers gives by themselves or, since 5, with what they came from."""
    found = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
    if not isinstance(found, Tensor):
        raise InputError(f"model gives a {type(output).__name__} without pooled features: give a CLIP or SigLIP.")
    return found


def _scale(model: Any) -> tuple[float, float | None]:
    """tau and the bias; a model keeps the logarithm of the first."""
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    tau = float(scale.detach().exp()) if isinstance(scale, Tensor) and scale.numel() == 1 else LOGIT_SCALE
    if not math.isfinite(tau):
        raise InputError(f"model has the logit scale {tau}: give one that was trained.")
    return tau, float(bias.detach()) if isinstance(bias, Tensor) and bias.numel() == 1 else None


def _shown(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
