"""What the image tower says of the pictures that the projector learns from and is examined on, kept as safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from embedded.emoji import Pair, render
from PIL import Image
from torch import Tensor

from vlmadapt.backbones.towers import ImageTower
from vlmadapt.files import read_tensors, write_tensors
from vlmadapt.generative.models.assembled import GridTower
from vlmadapt.pictures import read
from vlmadapt.pictures.views import to_pixels
from vlmadapt.progress import track

BATCH = 64


@dataclass(frozen=True)
class Drawings:
    """``features`` float16 [n, 5, 1280], ``label`` int64 [n] into ``names``."""

    features: Tensor
    label: Tensor
    names: list[str]


def emoji_features(pairs: list[Pair], cache: Path) -> Drawings:
    """Of every pair that can be drawn."""
    content = hashlib.sha256(json.dumps([(pair.set_name, pair.name, pair.svg) for pair in pairs]).encode())
    path = cache / f"emoji-{content.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        pictures = render(pairs)
        names = sorted({picture.name for picture in pictures})
        label = torch.tensor([names.index(picture.name) for picture in pictures])
        features = _computed((picture.image for picture in pictures), len(pictures), "emoji")
        write_tensors(path, {"features": features, "label": label}, {"names": json.dumps(names)})
    tensors, metadata = read_tensors(path)
    return Drawings(tensors["features"], tensors["label"], json.loads(metadata["names"]))


def features_of(paths: Sequence[Path], title: str, cache: Path) -> Tensor:
    """float16 [n, 5, 1280] of pictures in files."""
    content = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths))
    path = cache / f"{title}-{content.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        write_tensors(path, {"features": _computed(map(read, paths), len(paths), title)})
    return read_tensors(path)[0]["features"]


@torch.no_grad()
def _computed(images: Iterable[Image.Image], total: int, title: str) -> Tensor:
    tower = GridTower(ImageTower())
    stream = iter(images)
    batches = iter(lambda: [to_pixels(image) for image in islice(stream, BATCH)], [])
    shown = track(batches, f"reading {title}", total=-(-total // BATCH))
    return torch.cat([tower(torch.stack(batch)).half() for batch in shown])
