"""Tower outputs of pictures and names, computed once and kept as safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from embedded.emoji import Picture
from PIL import Image, ImageOps
from torch import Tensor

from vlmadapt.backbones.towers import ImageTower, TextTower
from vlmadapt.files import read_tensors, write_tensors
from vlmadapt.pictures.views import to_pixels
from vlmadapt.progress import track

BATCH = 64
# The head sees names alone and inside the kind of sentence that users' templates make of them.
TRAINING_TEMPLATES = ("{}", "a photo of a {}.", "a picture of a {}", "a drawing of a {}", "clip art of a {}.")


@dataclass(frozen=True)
class PairFeatures:
    """What both towers say of every picture (plain and jittered) and of every name (in each template).

    ``features`` [2, n, 1280], ``logits`` [2, n, 1000], ``texts`` [templates, names, 384], ``label`` int64 [n].
    """

    features: Tensor
    logits: Tensor
    texts: Tensor
    label: Tensor
    sets: list[str]
    names: list[str]


def jitter(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """The drawing shrunk, stretched, shifted and perhaps mirrored on white: emoji fill their square, photos do not."""
    side = image.width
    draw = torch.rand(5, generator=generator).tolist()
    scale, stretch = 0.5 + 0.5 * draw[0], 0.75 + 0.5 * draw[1]
    size = (max(8, int(side * scale * min(1, stretch))), max(8, int(side * scale * min(1, 1 / stretch))))
    small = image.resize(size, Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(small, (int(draw[2] * (side - size[0])), int(draw[3] * (side - size[1]))))
    return ImageOps.mirror(canvas) if draw[4] < 0.5 else canvas


@torch.no_grad()
def image_features(tower: ImageTower, pixels: Iterable[Tensor], total: int, label: str) -> tuple[Tensor, Tensor]:
    stream = iter(pixels)
    batches = iter(lambda: list(islice(stream, BATCH)), [])
    outputs = [tower(torch.stack(batch)) for batch in track(batches, label, total=-(-total // BATCH))]
    return torch.cat([features for features, _ in outputs]), torch.cat([logits for _, logits in outputs])


@torch.no_grad()
def text_features(tower: TextTower, texts: Sequence[str]) -> Tensor:
    chunks = [texts[start : start + 4 * BATCH] for start in range(0, len(texts), 4 * BATCH)]
    return torch.cat([tower(tower.token_inputs(chunk)) for chunk in track(chunks, "reading names")])


def pair_features(pictures: list[Picture], cache: Path, seed: int) -> PairFeatures:
    names = sorted({picture.name for picture in pictures})
    label = torch.tensor([names.index(picture.name) for picture in pictures])
    sets = [picture.set_name for picture in pictures]
    content = hashlib.sha256(f"{seed} {TRAINING_TEMPLATES} {names}".encode())
    for picture in pictures:
        content.update(picture.image.tobytes())
    path = cache / f"features-{content.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        generator = torch.Generator().manual_seed(seed)
        plain = (to_pixels(picture.image) for picture in pictures)
        jittered = (to_pixels(jitter(picture.image, generator)) for picture in pictures)
        tower = ImageTower()
        outputs = [
            image_features(tower, view, len(pictures), title)
            for view, title in ((plain, "drawings as they are"), (jittered, "drawings jittered"))
        ]
        reader = TextTower()
        texts = [text_features(reader, [template.format(name) for name in names]) for template in TRAINING_TEMPLATES]
        tensors = {
            "features": torch.stack([features for features, _ in outputs]),
            "logits": torch.stack([logits for _, logits in outputs]),
            "texts": torch.stack(texts),
        }
        write_tensors(path, tensors)
    tensors, _ = read_tensors(path)
    return PairFeatures(tensors["features"], tensors["logits"], tensors["texts"], label, sets, names)
