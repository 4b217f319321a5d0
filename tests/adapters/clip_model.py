"""A small open_clip model with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlmadapt.backbones import load_encoder

WIDTH = 24


def random_clip(folder: Path, custom_text: bool = False, **vision: Any) -> Any:
    """The encoder of one with a text tower of two layers, 16 wide, and an image tower of one layer, 64 wide.

    ``vision`` replaces what its configuration says of the image tower.
    """
    open_clip = pytest.importorskip("open_clip", reason="pip install 'vlmadapt[open-clip]'")
    config = {
        "embed_dim": WIDTH,
        "vision_cfg": vision or {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
        "custom_text": custom_text,
    }
    name = f"vlmadapt-{folder.name}"
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    return load_encoder(f"open_clip:{name}@random")
