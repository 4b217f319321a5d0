"""Options that several commands share, and what they load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset, FeatureCache
    from vlmadapt.experiments.fit import Extraction

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A built-in set (clipart, mnist5k, textile3, tuxphotos), a folder of class folders, a .csv or .jsonl "
        "file, a split_zhou_*.json file, or a benchmark's name with --root.",
        show_default=False,
    ),
]
Root = Annotated[Optional[Path], typer.Option(help="Folder of a benchmark's or JSON split's pictures.")]  # noqa: UP045
SplitSeed = Annotated[int, typer.Option(help="Seed that splits data which comes without a split.")]
Backbone = Annotated[str, typer.Option(help="embedded, open_clip:MODEL/TAG or open_clip:MODEL@CHECKPOINT.")]
Download = Annotated[bool, typer.Option("--download", help="Allow fetching the backbone's weights.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
Views = Annotated[
    int, typer.Option(min=1, help="Augmented views averaged for each training picture; 1 takes the picture as it is.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures encoded at a time.")]
Precision = Annotated[str, typer.Option(help="fp32 or bf16, of the backbone.")]
Cache = Annotated[Optional[Path], typer.Option(help="Folder of the feature cache.", show_default="the user's")]  # noqa: UP045
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the feature cache.")]
Templates = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--template", help="Prompt with {} for the class name, instead of the data set's; repeatable."),
]
AllowShort = Annotated[bool, typer.Option("--allow-short", help="Let a class have fewer pictures than shots.")]


def open_dataset(data: str, root: Path | None, split_seed: int, templates: list[str] | None = None) -> Dataset:
    from vlmadapt.data import load_dataset

    return load_dataset(data, seed=split_seed, root=root, templates=templates or None)


def open_encoder(backbone: str, device: str, download: bool = False) -> Encoder:
    from vlmadapt import backbones

    return backbones.load_encoder(backbone, device=pick_device(device), allow_download=download)


def pick_device(device: str) -> str:
    """Check ``device``; ``auto`` is CUDA where torch has it. Raises :class:`InputError` with the choices."""
    import torch

    from vlmadapt.errors import InputError

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device is {device!r}: use cpu, cuda, cuda:1, ... or auto.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device is {device!r}, but torch sees no CUDA device here: use --device cpu.")
    return device


def open_cache(folder: Path | None, off: bool) -> FeatureCache | None:
    from vlmadapt.data import FeatureCache

    return None if off else FeatureCache(folder)


def extraction_of(views: int, batch_size: int, precision: str, cache: Path | None, no_cache: bool) -> Extraction:
    from vlmadapt.errors import InputError
    from vlmadapt.experiments.fit import Extraction

    if precision not in ("fp32", "bf16"):
        raise InputError(f"--precision is {precision!r}: use fp32 or bf16.")
    return Extraction(
        views=views,
        batch_size=batch_size,
        precision="bf16" if precision == "bf16" else "fp32",
        cache=open_cache(cache, no_cache),
    )


def numbers(name: str, text: str) -> list[int]:
    """``"1,2,4"`` to numbers. Raises :class:`InputError` naming the option."""
    from vlmadapt.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{name} is {text!r}: give whole numbers separated by commas, such as 1,2,4.") from error


def names(text: str) -> list[str]:
    """Split at commas, except inside brackets: ``"a,b:search_beta=[1,8,4]"`` are two names."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text)]


def describe(dataset: Dataset) -> str:
    return (
        f"{dataset.name}: {len(dataset.class_names)} classes, {len(dataset.train)} training, {len(dataset.val)} "
        f"validation and {len(dataset.test)} test pictures"
    )
