"""A tiny world: plain pictures of four colours, questions, captions and statements about them, and a tiny BLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlmadapt.generative.data.records import Record, RecordSet, TaskName
from vlmadapt.generative.models import GenerativeModel
from vlmadapt.generative.models.small import SmallBlipConfig, WordTokenizer, build_small

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
WORDS = "what colour is it ? the picture all of a plain there no yes maybe surely not or dark".split()  # noqa: SIM905
TINY = SmallBlipConfig(width=32, heads=2, vision_layers=1, text_layers=1, image_size=16, patch_size=8, max_length=16)


def tokenizer() -> WordTokenizer:
    return WordTokenizer([*WORDS, *COLOURS])


def to_pixels(image: Image.Image) -> torch.Tensor:
    data = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return data.view(16, 16, 3).permute(2, 0, 1).float() / 127.5 - 1


def model(task: TaskName = "vqa", seed: int = 0) -> GenerativeModel:
    torch.manual_seed(seed)
    words = tokenizer()
    built = build_small("caption" if task == "caption" else "vqa", len(words), TINY)
    return GenerativeModel("tiny", built, words, to_pixels, (16, 16))


def records(task: TaskName, root: Path) -> RecordSet:
    """Eight pictures a split; ``neutral`` statements are about something no picture shows."""
    parts: dict[str, tuple[Record, ...]] = {}
    for split in ("train", "val", "test"):
        made = []
        for number, (name, colour) in enumerate([*COLOURS.items()] * 2):
            image = root / f"{split}{number}.png"
            Image.new("RGB", (16, 16), colour).save(image)
            common: dict[str, Any] = {"id": f"{split}-{number}", "image": image, "split": split}
            if task == "caption":
                made.append(Record(**common, captions=(f"a plain {name} picture", f"the picture is all {name}")))
            elif task == "vqa":
                two = ((name, 8), ("dark", 2)) if name == "black" else ((name, 10),)
                asked = "what colour is it?" if number < 4 else "what colour is the picture of?"
                made.append(Record(**common, prompt=asked, answers=two, kind="short" if number < 4 else "long"))
            else:
                label = ("entailment", "contradiction", "neutral")[number % 3]
                said = {"entailment": f"it is {name}", "contradiction": f"it is not {name}", "neutral": "a plain maybe"}
                made.append(Record(**common, prompt=said[label], label=label))
        parts[split] = tuple(made)
    return RecordSet("tiny world", task, root, parts["train"], parts["val"], parts["test"])
