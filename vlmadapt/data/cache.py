"""Features on disk, found by the content of a picture and by everything that made them.

Layout: ``root/<recipe>/<shard>.safetensors``. A recipe is the sha256 of what decides a feature besides the picture;
a shard holds features and the sha256 of the bytes of their pictures. Each extraction adds one shard with what was
not there yet, so splits, shots and seeds share features, and writers never touch each other's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlmadapt.atomic import remove_leftovers
from vlmadapt.errors import FileError
from vlmadapt.files import check_format, read_tensors, write_tensors

FORMAT = "1"


def user_cache_dir() -> Path:
    """Where this package keeps what it can make again: ``$VLMADAPT_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("VLMADAPT_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vlmadapt"


@dataclass(frozen=True)
class Recipe:
    """What decides a feature besides the picture: a change of any field is another recipe."""

    fingerprint: str  # weights, transform description and name of the encoder
    transform: str  # what the transform makes of a probe picture
    views: int
    seed: int
    precision: str
    version: str  # of this package

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def key(self) -> str:
        return hashlib.sha256(self.text().encode()).hexdigest()


class FeatureCache:
    """Features below ``root``. Trouble with its files costs a warning and the time to compute again, never a result."""

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root) if root is not None else user_cache_dir() / "features"
        self._warned_write = False

    def load(self, recipe: Recipe, digests: Sequence[str], width: int) -> dict[str, Tensor]:
        """Digest -> feature ``[width]`` float32 for those of ``digests`` (sha256 of picture bytes) that are kept."""
        wanted = set(digests)
        found: dict[str, Tensor] = {}
        remove_leftovers(self._folder(recipe))  # here, for a run that finds all it wants stores nothing
        for shard in self._shards(recipe):
            try:
                kept, features = _read_shard(shard, recipe, width)
            except FileError as error:
                warnings.warn(f"{error} Its features are computed again.", stacklevel=3)
                if not isinstance(error.__cause__, OSError):  # readable, so its content is bad and stays bad
                    with suppress(OSError):
                        shard.unlink()
                continue
            found.update((digest, features[row]) for row, digest in enumerate(kept) if digest in wanted)
        return found

    def store(self, recipe: Recipe, digests: Sequence[str], features: Tensor) -> None:
        """Keep ``features [m, D]`` of the pictures ``digests``; where the folder cannot be written, warn once."""
        if not digests:
            return
        name = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
        tensors = {
            "digests": torch.frombuffer(bytearray(bytes.fromhex("".join(digests))), dtype=torch.uint8).view(-1, 32),
            "features": features.to(torch.float32).contiguous(),
        }
        metadata = {"format": FORMAT, "recipe": recipe.text(), "sha256": _checksum(tensors)}
        try:
            write_tensors(self._folder(recipe) / f"{name}.safetensors", tensors, metadata)
        except FileError as error:
            if not self._warned_write:
                self._warned_write = True
                warnings.warn(
                    f"feature cache {self.root} cannot be written ({error}) Features are computed but not kept: make "
                    "the folder writable, free space, or choose another cache folder.",
                    stacklevel=3,
                )

    def _folder(self, recipe: Recipe) -> Path:
        return self.root / recipe.key[:32]

    def _shards(self, recipe: Recipe) -> list[Path]:
        try:
            return sorted(self._folder(recipe).glob("*.safetensors"))
        except OSError as error:
            warnings.warn(f"feature cache {self.root} cannot be read ({error}): features are computed.", stacklevel=4)
            return []


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _read_shard(shard: Path, recipe: Recipe, width: int) -> tuple[list[str], Tensor]:
    tensors, metadata = read_tensors(shard)
    # Files that name no format are of 0.1.0.
    check_format(
        shard, metadata.get("format", "1"), FORMAT, "the next vlmadapt features, fit or compare makes it again"
    )
    if metadata.get("recipe") != recipe.text() or tensors.keys() != {"digests", "features"}:
        raise FileError(f"cache file {shard} was made for something else.")
    features = tensors["features"]
    if metadata.get("sha256") != _checksum(tensors) or features.shape != (len(tensors["digests"]), width):
        raise FileError(f"cache file {shard} is damaged.")
    return [bytes(row).hex() for row in tensors["digests"].numpy()], features
