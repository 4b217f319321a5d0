"""Two walks through the package, counted while they are made: the modules whose code runs. docs/architecture.md tells.

python scripts/walks.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import vlmadapt
from vlmadapt.generative.methods.p_adapter import attach_p_adapter

PACKAGE = Path(vlmadapt.__file__).parent


def modules_entered(call: Callable[[], Any]) -> list[str]:
    """Modules of the package with a function that ``call`` runs, in the order of their first: ``pictures/read``."""
    found: dict[str, None] = {}

    def look(frame: Any, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents:
            found[path.relative_to(PACKAGE).with_suffix("").as_posix()] = None

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return list(found)


def picture(encoder: Any = "embedded") -> list[str]:
    """From a picture's file to its scores: ``predict`` of a fitted Tip-Adapter."""
    with tempfile.TemporaryDirectory() as folder:
        for number, colour in enumerate(["red", "green", "blue", "white"]):
            path = Path(folder) / ["apple", "fish"][number % 2] / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), colour).save(path)
        options: Any = {"adapter": "tip-adapter", "shots": 1, "allow_short": True, "no_cache": True}
        classifier = vlmadapt.fit(folder, encoder=encoder, **options)
        return modules_entered(lambda: classifier.predict([path]))


def attention() -> list[str]:
    """The self-attention of a layer of BLIP's text decoder with a p-adapter: probabilities, messages, both joined."""
    import transformers

    sizes: Any = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1}
    config = transformers.BlipConfig(text_config={**sizes, "encoder_hidden_size": 32}, vision_config=sizes)
    model: Any = transformers.BlipForConditionalGeneration(config).eval()
    attach_p_adapter(model, {"reduction": 4})
    layer = model.text_decoder.bert.encoder.layer[0].attention
    states = torch.randn(1, 5, 32)
    return modules_entered(lambda: layer(states)[0].sum().backward())


def main() -> None:
    for walk in (picture, attention):
        rooms = walk()
        print(f"{walk.__name__}: {len(rooms)}", *rooms, sep="\n  ")


if __name__ == "__main__":
    main()
