"""What a results file says about the software it came from; nothing that identifies the machine."""

from __future__ import annotations

import platform

import torch

from vlmadapt import version


def versions() -> dict[str, str]:
    return {
        "vlmadapt": version.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def public_name(encoder_name: str) -> str:
    """An encoder's name without the folder of a local checkpoint: ``open_clip:ViT-B-32@model.safetensors``."""
    architecture, at, checkpoint = encoder_name.partition("@")
    return architecture + at + checkpoint.replace("\\", "/").rpartition("/")[2]
