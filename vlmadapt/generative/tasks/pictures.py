"""Pictures of records as features of a model's image tower, each read or computed once where memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vlmadapt.generative.models.view import TaskModel
from vlmadapt.pictures import encode, read

MIB = 1024 * 1024


class Pictures:
    """Features of pictures by path: [B, ...], or where their shapes differ a list of one tensor a picture.

    Where nothing in the tower trains, its features are kept; they are those of evaluation mode without gradient, so
    that all methods with a frozen tower share them. Otherwise the transformed pictures are kept, and the tower runs.
    What does not fit into ``budget_mib`` (each kind has its own) is computed again every time.
    """

    def __init__(self, model: TaskModel, read: Callable[[Path], Image.Image] = read, budget_mib: float = 512) -> None:
        self.model, self._read = model, read
        self._pixels = _Store(budget_mib)
        self._features = _Store(budget_mib)

    def features(self, paths: Sequence[Path]) -> Tensor | list[Tensor]:
        """With gradients into the tower where it trains."""
        if any(parameter.requires_grad for parameter in self.model.tower.parameters()):
            return _together(self._encode(paths, self._kept_pixels))
        missing = [path for path in dict.fromkeys(paths) if path not in self._features]
        fresh: dict[Path, Tensor] = {}
        if missing:
            training = self.model.tower.training
            self.model.tower.eval()
            with torch.no_grad():
                computed = self._encode(missing, self._pixels_of)
            self.model.tower.train(training)
            fresh = dict(zip(missing, computed, strict=True))
            for path, feature in fresh.items():
                self._features.offer(path, feature)
        return _together([fresh[path] if path in fresh else self._features[path] for path in paths])

    def _encode(self, paths: Sequence[Path], load: Callable[[Path], Tensor]) -> list[Tensor]:
        """Those of each of ``paths``; pictures whose pixels have one shape go through the tower together."""
        pixels = [load(path) for path in paths]
        shapes: dict[torch.Size, list[int]] = {}
        for place, picture in enumerate(pixels):
            shapes.setdefault(picture.shape, []).append(place)
        found = pixels.copy()
        for places in shapes.values():
            (features,) = encode(places, pixels.__getitem__, self._through_tower, len(places))
            for place, feature in zip(places, features, strict=True):
                found[place] = feature
        return found

    def _through_tower(self, pixels: Tensor) -> Tensor:
        return self.model.features(pixels.to(self.model.device))

    def _pixels_of(self, path: Path) -> Tensor:
        return self._pixels[path] if path in self._pixels else self.model.transform(self._read(path))

    def _kept_pixels(self, path: Path) -> Tensor:
        pixels = self._pixels_of(path)
        if path not in self._pixels:
            self._pixels.offer(path, pixels)
        return pixels


def _together(features: list[Tensor]) -> Tensor | list[Tensor]:
    return torch.stack(features) if len({feature.shape for feature in features}) == 1 else features


class _Store(dict[Path, Tensor]):
    """A dictionary that stops growing at its budget."""

    def __init__(self, budget_mib: float) -> None:
        super().__init__()
        self._left = budget_mib * MIB

    def offer(self, path: Path, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if size <= self._left:
            self._left -= size
            self[path] = tensor.clone()
