"""Pictures to features: decoding in threads, encoding in batches, averaging augmented views or not, caching."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmadapt import version
from vlmadapt.data.cache import FeatureCache, Recipe
from vlmadapt.errors import FileError, InputError
from vlmadapt.kinds import of_kinds
from vlmadapt.modes import usual
from vlmadapt.pictures import decode, encode, read
from vlmadapt.pictures.identity import identity_of
from vlmadapt.pictures.read import contents, digest_of
from vlmadapt.progress import track

Precision = Literal["fp32", "bf16"]
# Features are put into the cache every so many pictures, so that an interruption loses little.
PICTURES_PER_SHARD = 2048


class ImageEncoder(Protocol):
    """What extraction needs of an encoder; see ``vlmadapt.backbones``."""

    name: str
    width: int
    fingerprint: str

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def transform(self, image: Image.Image) -> Tensor: ...
    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor: ...
    def encode_images(self, pixels: Tensor, normalize: bool = True) -> Tensor: ...


@of_kinds
@usual()
def extract_features(
    encoder: ImageEncoder,
    paths: Sequence[str | Path | Image.Image],
    *,
    views: int = 1,
    seed: int = 0,
    each_view: bool = False,
    batch_size: int = 64,
    precision: Precision = "fp32",
    cache: FeatureCache | None = None,
    progress: bool = True,
) -> Tensor:
    """Normalised features of pictures: float32 ``[n, D]`` on the CPU, in the order of ``paths``, which are files or
    opened PIL pictures.

    With ``views=1`` a picture goes through the test-time transform; with more, each view is a random crop and flip and
    a feature is the mean of the views' unnormalised features, then normalised (as the keys of Tip-Adapter,
    arXiv 2111.03930). With ``each_view`` they are ``[n, views, D]``: of the picture by the test-time transform, and of
    each of ``views - 1`` random views, not averaged. A view's randomness is fixed by the picture's content, ``seed``
    and the view's number, so it depends on no other picture. ``precision="bf16"`` encodes under autocast.
    ``batch_size`` counts views.

    Raises :class:`FileError` naming an unreadable picture and :class:`InputError` naming one whose feature is zero, NaN
    or infinite. What was computed before the error is kept in ``cache``.
    """
    _check_counts(views=views, batch_size=batch_size)
    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision is {precision!r}: it must be 'fp32' or 'bf16'.")
    for path in paths:
        if not isinstance(path, (str, Path, Image.Image)):
            raise InputError(f"paths holds a {type(path).__name__}: give paths or PIL pictures.")
    files = [path if isinstance(path, Image.Image) else Path(path) for path in paths]
    if not files:
        return torch.zeros(0, *([views] if each_view else []), encoder.width)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_digest_of, files))
        recipe = make_recipe(encoder, views, seed, precision, each_view)
        width = encoder.width * (views if each_view else 1)
        known = cache.load(recipe, digests, width) if cache else {}
        todo = {digest: path for digest, path in zip(digests, files, strict=True) if digest not in known}
        fresh: dict[str, Tensor] = {}
        try:
            stream = _encode(encoder, list(todo.items()), views, seed, each_view, batch_size, precision, pool)
            for digest, feature in track(stream, f"features of {encoder.name}", len(todo), enabled=progress):
                fresh[digest] = feature
                if len(fresh) == PICTURES_PER_SHARD:
                    known |= _keep(cache, recipe, fresh)
        finally:
            known |= _keep(cache, recipe, fresh)
    rows = torch.stack([known[digest] for digest in digests])
    return rows.unflatten(-1, (views, encoder.width)) if each_view else rows


def _digest_of(picture: Path | Image.Image) -> str:
    """sha256 (hex) of a file's bytes, or of the size and pixels of an opened picture."""
    if isinstance(picture, Path):
        return digest_of(picture)
    return hashlib.sha256(identity_of(b"", read(picture)).pixels.encode()).hexdigest()


def make_recipe(encoder: ImageEncoder, views: int, seed: int, precision: str, each_view: bool = False) -> Recipe:
    """All that decides a feature besides the picture. One view has no randomness, so its seed does not count."""
    transform = _probe_transform(encoder, augmented=views > 1)
    return Recipe(
        fingerprint=encoder.fingerprint,
        transform=f"{_probe_transform(encoder, augmented=False)} {transform}" if each_view else transform,
        views=views,
        seed=seed if views > 1 else 0,
        precision=f"{precision} {encoder.dtype} {encoder.device.type}{_engine(encoder, precision)}",
        version=version.__version__,
    )


def _engine(encoder: ImageEncoder, precision: str) -> str:
    """What computes the features, where it is not the tower's own modules in float32. Autocast takes those modules with
    any engine; bf16 without its name is what earlier versions called float32."""
    engine = getattr(encoder, "engine", "torch")
    return " autocast" if precision == "bf16" else "" if engine == "torch" else f" {engine}"


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}: give a whole number, at least 1.")


def _keep(cache: FeatureCache | None, recipe: Recipe, fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move ``fresh`` features into the cache and return them."""
    kept = dict(fresh)
    fresh.clear()
    if cache and kept:
        cache.store(recipe, list(kept), torch.stack(list(kept.values())))
    return kept


def _probe_transform(encoder: ImageEncoder, augmented: bool) -> str:
    """sha256 of what the transform makes of a fixed picture: tells transforms apart even where names agree."""
    rows, columns = np.mgrid[0:67, 0:97]
    grid = np.stack([rows * 3, columns * 2, (rows * columns) % 256], axis=-1).astype(np.uint8)
    probe = Image.fromarray(grid)
    pixels = encoder.augment(probe, torch.Generator().manual_seed(0)) if augmented else encoder.transform(probe)
    return hashlib.sha256(pixels.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()


def view_seed(digest: str, seed: int, view: int) -> int:
    """Seed of one augmented view: 63 bits of sha256 over picture content, seed and view number."""
    mixed = hashlib.sha256(f"{digest}\0{seed}\0{view}".encode()).digest()
    return int.from_bytes(mixed[:8], "big") >> 1


def _load_views(
    encoder: ImageEncoder, digest: str, path: Path | Image.Image, views: int, seed: int, each_view: bool
) -> Tensor:
    """Pixels ``[views, 3, H, W]`` of one picture; with ``each_view`` the first is the picture as it is."""
    image = read(path) if isinstance(path, Image.Image) else _decoded(path, digest)
    if views == 1:
        return encoder.transform(image)[None]
    whole = [encoder.transform(image)] if each_view else []
    numbers = range(views - len(whole))
    generators = (torch.Generator().manual_seed(view_seed(digest, seed, view)) for view in numbers)
    return torch.stack([*whole, *(encoder.augment(image, generator) for generator in generators)])


def _decoded(path: Path, digest: str) -> Image.Image:
    data = contents(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise FileError(f"{path} changed while features were computed: run again when nothing writes to it.")
    return decode(data, path)


def _encode(
    encoder: ImageEncoder,
    pictures: list[tuple[str, Path | Image.Image]],
    views: int,
    seed: int,
    each_view: bool,
    batch_size: int,
    precision: Precision,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (digest, feature ``[D]``), with ``each_view`` (digest, features ``[views D]``)."""

    def load(picture: tuple[str, Path | Image.Image]) -> Tensor:
        return _load_views(encoder, *picture, views, seed, each_view)

    def tower(pixels: Tensor) -> Tensor:
        features = _encode_batch(encoder, pixels, batch_size, precision)
        return features if each_view else features.mean(dim=1, keepdim=True)

    waiting = iter(pictures)
    with closing(encode(pictures, load, tower, max(1, batch_size // views), pool)) as batches:
        for features in batches:
            for feature, (digest, path) in zip(features, waiting, strict=False):  # takes no more than the batch has
                yield digest, torch.cat([_normalise(encoder, path, view) for view in feature])


def _encode_batch(encoder: ImageEncoder, pixels: Tensor, batch_size: int, precision: Precision) -> Tensor:
    """``[b, views, 3, H, W]`` to the unnormalised features of each picture, float32 ``[b, views, D]`` on the CPU."""
    amp: AbstractContextManager[Any] = nullcontext()
    more: dict[str, Any] = {}
    if precision == "bf16":
        # Those of :mod:`vlmadapt.backbones` compute in the precision they are told, others' as torch is set.
        amp = torch.autocast(encoder.device.type, torch.bfloat16)
        told = "precision" in inspect.signature(encoder.encode_images).parameters
        more = {"precision": precision} if told else {}
    with torch.no_grad(), amp:
        parts = [
            encoder.encode_images(part.to(encoder.device), normalize=False, **more).float().cpu()
            for part in pixels.flatten(0, 1).split(batch_size)
        ]
    return torch.cat(parts).view(*pixels.shape[:2], -1)


def _normalise(encoder: ImageEncoder, path: Path | Image.Image, feature: Tensor) -> Tensor:
    norm = feature.norm()
    if not bool(torch.isfinite(norm)) or float(norm) == 0.0:
        raise InputError(
            f"encoder {encoder.name!r} gave the picture {path} a feature of norm {float(norm)}, which cannot be "
            "normalised: remove the picture or use another encoder or precision."
        )
    return feature / norm


@dataclass(frozen=True)
class Extraction:
    """How pictures become features; ``views`` augmented views are taken of training pictures only, and averaged where a
    method does not take each."""

    views: int = 1
    batch_size: int = 64
    precision: Precision = "fp32"
    cache: FeatureCache | None = None
    progress: bool = True

    def extract(
        self, encoder: ImageEncoder, paths: Sequence[Path | Image.Image], views: int = 1, each_view: bool = False
    ) -> Tensor:
        """Features ``[n, D]`` of ``paths``, or ``[n, views, D]``; raises what :func:`extract_features` raises."""
        return extract_features(
            encoder,
            paths,
            views=views,
            each_view=each_view,
            batch_size=self.batch_size,
            precision=self.precision,
            cache=self.cache,
            progress=self.progress,
        )
