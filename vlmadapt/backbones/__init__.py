"""Backbones behind one interface: the embedded dual encoder, any open_clip model, and vision-only towers of timm."""

from vlmadapt.backbones.base import Encoder, TokenInputs, class_text_features, prompt_features
from vlmadapt.backbones.load import load_encoder, pick_device, reads_text

__all__ = [
    "Encoder",
    "TokenInputs",
    "class_text_features",
    "load_encoder",
    "pick_device",
    "prompt_features",
    "reads_text",
]
