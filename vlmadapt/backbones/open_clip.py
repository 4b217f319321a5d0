"""Any open_clip model: by pretrained tag, from a local checkpoint, or with seeded random weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from typing import Any

import safetensors
import torch
from PIL import Image
from torch import Tensor, nn

from vlmadapt.backbones import onednn
from vlmadapt.backbones.base import Encoder, TokenInputs, fingerprint_of, resolve_device
from vlmadapt.backbones.checkpoints import (
    RANDOM_SEED,
    Source,
    find_source,
    hub_access,
    is_hub,
    missing_weights,
)
from vlmadapt.backbones.onednn import FastTower
from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.modes import usual
from vlmadapt.pictures import read
from vlmadapt.pictures.views import middle_of_long, random_view, to_tensor

INSTALL = "pip install 'vlmadapt[open-clip]'"


class OpenClipTowers(Encoder):
    """The towers of an open_clip model: ``model`` and ``tokenizer`` are to be there, and ``device``."""

    model: Any
    tokenizer: Any

    def token_inputs(self, texts: Sequence[str]) -> TokenInputs:
        tokens = self.tokenizer(list(texts)).to(self.device)
        mask = torch.arange(tokens.shape[1], device=self.device) <= self._last(tokens)
        return TokenInputs(self._token_table()(tokens), tokens, mask)

    def text_module(self) -> nn.Module:
        own: nn.Module | None = getattr(self.model, "text", None) or getattr(self.model, "transformer", None)
        return super().text_module() if own is None else own

    def image_module(self) -> nn.Module:
        visual: nn.Module | None = getattr(self.model, "visual", None)
        try:
            from open_clip.transformer import VisionTransformer
        except ImportError:  # a model with the same methods
            return super().image_module()
        # A residual network has an attention pool whose maps are used without being called, timm's towers pack theirs.
        if not isinstance(visual, VisionTransformer) or not any(
            isinstance(each, nn.MultiheadAttention) for each in visual.modules()
        ):
            return super().image_module()
        return visual

    def _last(self, tokens: Tensor) -> Tensor:
        """Where each text ends ``[T, 1]``, its end token included."""
        inner = getattr(self.tokenizer, "tokenizer", None)  # of transformers, as SigLIP has it
        if inner is None or inner.pad_token_id is None:
            # CLIP's own vocabulary ends a text with its highest id and pads with a zero, which is also a real token.
            return tokens.argmax(dim=-1, keepdim=True)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        last = torch.where(tokens != inner.pad_token_id, places, -1).amax(dim=-1, keepdim=True)
        # SigLIP's first generation pads with the end token itself; the first of them ends the text.
        ends = 1 if inner.eos_token_id == inner.pad_token_id else 0
        return (last + ends).clamp(max=tokens.shape[1] - 1)

    def _image_features(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def _text_features(self, texts: list[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(texts).to(self.device))

    def _token_features(self, inputs: TokenInputs) -> Tensor:
        # The model looks tokens up itself; answering for its table lets every open_clip text tower be used as it is.
        hook = self._token_table().register_forward_hook(lambda *_: inputs.embeddings)
        try:
            return self.model.encode_text(inputs.tokens)
        finally:
            hook.remove()

    def _token_table(self) -> nn.Module:
        table = getattr(self.model, "token_embedding", None)
        if table is None:
            table = getattr(getattr(self.model, "text", None), "token_embedding", None)
        if table is None:
            raise InputError(f"{self.name} has no open token table: choose a model with open_clip's own text tower.")
        return table


class OpenClipEncoder(OpenClipTowers):
    """``load_encoder("open_clip:...")``; width, logit scale, transform and tokenizer are the model's own.

    Raises :class:`MissingDependency` without open_clip, and what :func:`build_model` raises.
    """

    def __init__(self, spec: str, device: str | torch.device = "cpu", allow_download: bool = False) -> None:
        try:
            import open_clip
            from open_clip.transform import PreprocessCfg, image_transform_v2
        except ImportError as error:
            raise MissingDependency(f"the backbone open_clip:{spec} needs open_clip: run {INSTALL}.") from error
        self.name = f"open_clip:{spec}"
        self.device = resolve_device(device)
        source = find_source(spec, allow_download)
        self.model = build_model(spec, source, allow_download).eval().requires_grad_(False)
        self.tokenizer: Any = build_tokenizer(spec, source.architecture, allow_download)

        config = dict(self.model.visual.preprocess_cfg)
        description = json.dumps(config, sort_keys=True, default=list)
        self.preprocessing = json.loads(description)
        weights = sorted(self.model.state_dict().items())
        self.fingerprint = fingerprint_of(["open_clip", source.architecture, description], weights)

        settings = PreprocessCfg(**config)
        self._size: tuple[int, int] = settings.input_size[1:]
        self._mean = torch.tensor(settings.mean).view(3, 1, 1)
        self._std = torch.tensor(settings.std).view(3, 1, 1)
        self._resample = Image.Resampling[settings.interpolation.upper()]
        self._crops = settings.resize_mode == "shortest"
        self._test_view = image_transform_v2(settings, is_train=False)

        self.model.to(self.device)
        self.dtype = next(self.model.visual.parameters()).dtype
        with hub_access(allow_download):
            self.width = open_clip.get_model_config(source.architecture)["embed_dim"]
        self.logit_scale = float(self.model.logit_scale.detach().exp())
        bias = getattr(self.model, "logit_bias", None)
        self.logit_bias = None if bias is None else float(bias.detach())

    @usual()
    def transform(self, image: Image.Image) -> Tensor:
        picture = read(image)
        return self._test_view(middle_of_long(picture, self._size) if self._crops else picture).float()

    @usual()
    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        view = random_view(read(image), self._size, generator, self._resample)
        return (to_tensor(view) / 255 - self._mean) / self._std

    def _image_features(self, pixels: Tensor) -> Tensor:
        if self.fast_images is not None and onednn.takes(pixels):
            return self.fast_images(pixels)
        return super()._image_features(pixels)

    def _fast_tower(self) -> FastTower | None:
        from open_clip.transformer import VisionTransformer

        # What encode_image does besides calling the tower is to normalise.
        visual = self.model.visual
        return onednn.fused_transformer(visual) if isinstance(visual, VisionTransformer) else None


def build_model(spec: str, source: Source, allow_download: bool) -> Any:
    """The model of ``source``. Raises :class:`FileError` for a damaged or other checkpoint, :class:`MissingDependency`
    where weights would have to be downloaded."""
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode", "fill_color", "size")
    options: dict[str, Any] = {
        "force_quick_gelu": source.quick_gelu,
        "force_preprocess_cfg": {key: source.preprocess[key] for key in keys if key in source.preprocess},
        "pretrained_text": False,
        "weights_only": True,
    }
    try:
        with hub_access(allow_download), torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            checkpoint = None if source.checkpoint is None else str(source.checkpoint)
            return open_clip.create_model(source.architecture, checkpoint, **options)
    except (pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise FileError(
            f"{source.checkpoint} could not be read as plain tensors (weights_only): fetch it again if it is damaged, "
            "or convert it to safetensors if it is a pickle you trust."
        ) from error
    except (RuntimeError, KeyError, ValueError, TypeError, EOFError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{source.checkpoint} does not fit {source.architecture}: {reason}") from error
    except OSError as error:
        raise MissingDependency(missing_weights(f"open_clip:{spec}", allow_download, "configuration files")) from error


def build_tokenizer(spec: str, architecture: str, allow_download: bool) -> Any:
    """The architecture's tokenizer. Raises :class:`MissingDependency` where its files would have to be downloaded."""
    import open_clip

    config: Any = {"text_cfg": {}} if is_hub(architecture) else open_clip.get_model_config(architecture)
    # open_clip fetches SigLIP's vocabulary by plain URL when the configuration names no hub tokenizer.
    by_url = (
        not is_hub(architecture)
        and "siglip" in architecture.lower()
        and not config["text_cfg"].get("hf_tokenizer_name")
    )
    try:
        if by_url and not allow_download:
            raise FileNotFoundError(architecture)
        with hub_access(allow_download):
            return open_clip.get_tokenizer(architecture)
    except OSError as error:
        raise MissingDependency(missing_weights(f"open_clip:{spec}", allow_download, "tokenizer files")) from error
