"""The toy pictures of the cases: 32 pixels, a noisy colour a class, always the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "hen")
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


def picture(kind: int, number: int, side: int = 32) -> Image.Image:
    noise = np.random.default_rng([kind, number]).normal(0, 60, (side, side, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[kind % 3]) + noise, 0, 255).astype(np.uint8))


def fill(folder: Path, kind: int, numbers: Iterable[int], ending: str = ".png") -> list[Path]:
    """Pictures of one class."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}{ending}" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        picture(kind, number).save(path)
    return paths


def class_folders(root: Path, numbers: Iterable[int] = range(12), classes: Sequence[str] = CLASSES) -> Path:
    """``root/<class>/<number>.png``."""
    numbers = list(numbers)
    for kind, name in enumerate(classes):
        fill(root / name, kind, numbers)
    return root


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
