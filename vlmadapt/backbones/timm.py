"""Vision-only towers of timm (DINOv2 and the like): pictures to pooled features, no text."""

from __future__ import annotations

import json
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import safetensors
import torch
from PIL import Image
from torch import Tensor

from vlmadapt.backbones.base import PicturesOnly, fingerprint_of, resolve_device
from vlmadapt.backbones.checkpoints import RANDOM, RANDOM_SEED, from_hub, from_url, local_file, missing_weights
from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.modes import usual
from vlmadapt.pictures import read
from vlmadapt.pictures.views import middle_of_long, random_view, to_tensor

INSTALL = "pip install 'vlmadapt[timm]'"
LOGIT_SCALE = 100.0  # CLIP's: a tower without text has none, and the methods' settings mean the same with it


class TimmEncoder(PicturesOnly):
    """``load_encoder("timm:...")``; width and transform are the model's own, features its pooled ones.

    Raises :class:`MissingDependency` without timm or where weights would have to be downloaded, :class:`InputError` for
    a name that timm does not know or has no weights for, and :class:`FileError` for a damaged or other checkpoint.
    """

    logit_scale = LOGIT_SCALE

    def __init__(self, spec: str, device: str | torch.device = "cpu", allow_download: bool = False) -> None:
        try:
            import timm.data
        except ImportError as error:
            raise MissingDependency(f"the backbone timm:{spec} needs timm: run {INSTALL}.") from error
        self.name = f"timm:{spec}"
        self.device = resolve_device(device)
        model, _, place = spec.partition("@")
        checkpoint = _checkpoint(self.name, model, place, allow_download)
        self.model = build_model(model, checkpoint).eval().requires_grad_(False)

        config = timm.data.resolve_model_data_config(self.model)
        description = json.dumps(config, sort_keys=True)
        self.preprocessing = json.loads(description)
        weights = sorted(self.model.state_dict().items())
        self.fingerprint = fingerprint_of(["timm", model.partition(".")[0], description], weights)

        channels, *size = config["input_size"]
        if channels != 3:
            raise InputError(f"{self.name} looks at {channels} channels: choose a model of colour pictures.")
        self._size: tuple[int, int] = (size[0], size[1])
        self._scaled: tuple[int, int] = tuple(math.floor(side / config["crop_pct"]) for side in size)  # before the crop
        self._crops = config["crop_mode"] == "center"
        self._mean = torch.tensor(config["mean"]).view(3, 1, 1)
        self._std = torch.tensor(config["std"]).view(3, 1, 1)
        self._resample = Image.Resampling[config["interpolation"].upper()]
        self._test_view: Any = timm.data.create_transform(**config, is_training=False)

        self.model.to(self.device)
        self.dtype = next(self.model.parameters()).dtype
        self.width = int(getattr(self.model, "head_hidden_size", None) or self.model.num_features)

    @usual()
    def transform(self, image: Image.Image) -> Tensor:
        picture = read(image)
        return self._test_view(middle_of_long(picture, self._scaled) if self._crops else picture).float()

    @usual()
    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        view = random_view(read(image), self._size, generator, self._resample)
        return (to_tensor(view) / 255 - self._mean) / self._std

    def _image_features(self, pixels: Tensor) -> Tensor:
        features = self.model(pixels)
        if features.shape != (pixels.shape[0], self.width):
            raise InputError(
                f"{self.name} gives {list(features.shape)} for {len(pixels)} pictures: choose a model that pools."
            )
        return features


def _checkpoint(name: str, model: str, place: str, allow_download: bool) -> Path | None:
    """Where the weights are; None for seeded random ones."""
    import timm

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise InputError(
            f"name holds the model {architecture!r}, which timm does not know: choose one of timm.list_models()."
        )
    try:
        known = timm.models.get_pretrained_cfg(model)
    except RuntimeError as error:
        tags = ", ".join(timm.list_models(architecture, pretrained=True)) or "none"
        raise InputError(f"name holds the tag {tag!r}, unknown for {architecture}: choose one of {tags}.") from error
    if place:
        return None if place == RANDOM else local_file(place)
    if known is None or not known.has_weights:
        raise InputError(f"timm offers no weights for {model!r}: give a checkpoint, as in timm:{model}@FILE.")
    found = from_hub(known.hf_hub_id, known.hf_hub_filename, allow_download) if known.hf_hub_id else None
    if found is None and known.url and isinstance(known.url, str):
        found = from_url(known.url, allow_download and not known.hf_hub_id)
    if found is None:
        raise MissingDependency(missing_weights(name, allow_download))
    return local_file(str(found))


def build_model(model: str, checkpoint: Path | None) -> Any:
    """The model without its classifier, with the weights of ``checkpoint``, or seeded random ones.

    Raises :class:`FileError` for a checkpoint that is damaged, needs a pickle, or is of another model.
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        net: Any = timm.create_model(model, pretrained=False, num_classes=0)
    if checkpoint is None:
        return net
    try:
        weights = timm.models.load_state_dict(str(checkpoint), weights_only=True)
    except (pickle.UnpicklingError, safetensors.SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise FileError(
            f"{checkpoint} could not be read as plain tensors (weights_only): fetch it again if it is damaged, or "
            "convert it to safetensors if it is a pickle you trust."
        ) from error
    # By timm's convention: what turns published checkpoints of the family into its own names.
    renamed = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        if renamed is not None:
            weights = renamed(weights, net)
        classifier = net.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
        own = net.state_dict().keys()
        net.load_state_dict(
            {name: value for name, value in weights.items() if name in own or not name.startswith(heads)}
        )
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileError(f"{checkpoint} does not fit {model}: {reason}") from error
    return net
