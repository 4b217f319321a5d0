"""Image-text backbones: the embedded dual encoder and any open_clip model, behind one interface."""

from vlmadapt.backbones.base import Encoder, TokenInputs, class_text_features
from vlmadapt.backbones.load import load_encoder, pick_device, reads_text

__all__ = ["Encoder", "TokenInputs", "class_text_features", "load_encoder", "pick_device", "reads_text"]
