"""Where the weights of open_clip and timm models come from: the local hub cache, or a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vlmadapt.errors import FileError, InputError, MissingDependency

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
RANDOM = "random"
RANDOM_SEED = 0
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HUB = "hf-hub:"  # before the name of a repository of the hub, as open_clip and timm write it
OPEN_CLIP_CONFIG = "open_clip_config.json"
# In the order in which open_clip takes them.
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class Source:
    """An architecture, its checkpoint (None: seeded random weights) and what the tag says of its preprocessing."""

    architecture: str
    checkpoint: Path | None
    preprocess: dict[str, Any] = field(default_factory=dict)
    quick_gelu: bool = False


@contextmanager
def hub_access(allowed: bool) -> Iterator[None]:
    """Keep ``huggingface_hub`` (and ``transformers``, which asks it) off the network in the block unless allowed."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def find_source(spec: str, allow_download: bool) -> Source:
    """Resolve ``ARCH/TAG``, ``ARCH@FILE``, ``ARCH@random`` or ``hf-hub:ORG/NAME``.

    Raises what ``load_encoder`` says, :class:`InputError` for an architecture or tag that open_clip does not know.
    """
    import open_clip

    if is_hub(spec):
        return Source(spec, _hub_file(spec, allow_download))
    architecture, at, place = spec.partition("@")
    if not at:
        architecture, _, place = spec.partition("/")
    if architecture not in open_clip.list_models():
        raise InputError(
            f"name holds the architecture {architecture!r}, which open_clip does not know: "
            "choose one of open_clip.list_models()."
        )
    if at:
        checkpoint = None if place == RANDOM else local_file(place)
        return Source(architecture, checkpoint, _usual_preprocess(architecture))
    tag = open_clip.get_pretrained_cfg(architecture, place)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise InputError(f"name holds the tag {place!r}, unknown for {architecture}: choose one of {tags}.")
    return Source(architecture, _tag_file(spec, tag, allow_download), tag, bool(tag.get("quick_gelu")))


def is_hub(spec: str) -> bool:
    """Whether ``spec`` names a repository of the hub."""
    return spec.startswith(HUB)


def _hub_file(spec: str, allow_download: bool) -> Path:
    """The weights of the repository ``hf-hub:ORG/NAME``, whose configuration is there too."""
    repository = spec.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(f"name holds {spec!r}: write hf-hub:ORG/NAME, as the hub does.")
    if from_hub(repository, OPEN_CLIP_CONFIG, allow_download) is None:
        raise MissingDependency(missing_weights(f"open_clip:{spec}", allow_download, f"{OPEN_CLIP_CONFIG}"))
    for name in OPEN_CLIP_FILES:
        found = from_hub(repository, name, allow_download)
        if found is not None:
            return found
    raise MissingDependency(missing_weights(f"open_clip:{spec}", allow_download))


def _usual_preprocess(architecture: str) -> dict[str, Any]:
    """How pictures of a SigLIP architecture are seen, by its published weights: open_clip's own default is CLIP's."""
    import open_clip

    if "init_logit_bias" not in (open_clip.get_model_config(architecture) or {}):
        return {}
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return dict(open_clip.get_pretrained_cfg(architecture, tags[0])) if tags else {}


def local_file(place: str) -> Path:
    """The checkpoint at ``place``; raises :class:`FileError` for a kind that is not read, and for none."""
    path = Path(place).expanduser()
    if path.suffix not in SUFFIXES:
        raise FileError(f"{path} is no checkpoint this package reads: give a file ending in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileError(f"{path} does not exist: give the path of a checkpoint file.")
    return path.resolve()


def _tag_file(spec: str, tag: dict[str, Any], allow_download: bool) -> Path:
    from huggingface_hub import constants
    from open_clip.pretrained import download_pretrained

    url = "" if tag.get("hf_hub") else tag.get("url", "")
    cached = Path("~/.cache/clip").expanduser() / os.path.basename(url)
    if url and cached.is_file():
        return cached
    allowed = allow_download and not constants.HF_HUB_OFFLINE
    try:
        if url and not allowed:
            raise FileNotFoundError(cached)
        with hub_access(allowed):
            return Path(download_pretrained(tag))
    except (OSError, RuntimeError) as error:
        raise MissingDependency(missing_weights(f"open_clip:{spec}", allow_download)) from error


def from_hub(repository: str, filename: str | None, allow_download: bool) -> Path | None:
    """A model's file of weights in the hub's cache, or downloaded where allowed; plain tensors before pickles."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    for name in (filename,) if filename else HUB_FILES:
        try:
            with hub_access(allow_download):
                return Path(hf_hub_download(repository, name))
        except (OSError, EntryNotFoundError, HfHubHTTPError):
            continue
    return None


def from_url(url: str, allow_download: bool) -> Path | None:
    """A file of weights in torch's cache, or downloaded where allowed."""
    from huggingface_hub import constants

    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    if not cached.is_file() and allow_download and not constants.HF_HUB_OFFLINE:
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(cached), progress=False)
        except OSError:
            return None
    return cached if cached.is_file() else None


def missing_weights(name: str, allow_download: bool, what: str = "weights") -> str:
    """The sentence about what of the backbone ``name`` is not at hand."""
    if allow_download:
        family = name.partition(":")[0]
        return (
            f"the {what} of {name} could not be fetched: check the connection, unset HF_HUB_OFFLINE, or pass a local "
            f"file as {family}:MODEL@FILE."
        )
    return (
        f"the {what} of {name} are not in the local cache: with a network, pass --download once (in Python "
        f"load_encoder('{name}', allow_download=True), or download=True of fit, compare and the like)."
    )
