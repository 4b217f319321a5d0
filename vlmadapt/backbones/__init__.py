"""Backbones behind one interface: the embedded dual encoder, open_clip's models, timm's towers, and live models."""

from vlmadapt.backbones.base import Encoder, TokenInputs, class_text_features, prompt_features
from vlmadapt.backbones.load import load_encoder, pick_device, reads_text
from vlmadapt.backbones.wrapped import from_model

__all__ = [
    "Encoder",
    "TokenInputs",
    "class_text_features",
    "from_model",
    "load_encoder",
    "pick_device",
    "prompt_features",
    "reads_text",
]
