"""One door to every backbone."""

from __future__ import annotations

import torch

from vlmadapt.backbones.base import AUTO, Encoder, check_engine
from vlmadapt.backbones.checkpoints import is_hub
from vlmadapt.errors import InputError
from vlmadapt.kinds import of_kinds
from vlmadapt.modes import usual

WRAPPED = "from_model"  # before the name of what from_model gives


@of_kinds
@usual(grad=True)
def load_encoder(
    name: str = "embedded",
    device: str | torch.device = "cpu",
    allow_download: bool = False,
    engine: str = AUTO,
) -> Encoder:
    """Load a backbone by name.

    ``"embedded"``
        the assembled dual encoder that arrives with ordinary packages (see ``docs/backbones.md``);
    ``"open_clip:ViT-B-32/laion2b_s34b_b79k"``
        an open_clip architecture and pretrained tag, from the local hub cache;
    ``"open_clip:ViT-B-32@/path/to/file.safetensors"``
        an open_clip architecture with a local checkpoint (``.safetensors``, or ``.pt``, ``.pth``, ``.bin``
        read with ``weights_only=True``);
    ``"open_clip:ViT-B-32@random"``
        the architecture with seeded random weights, for tests;
    ``"hf-hub:ORG/NAME"``
        an open_clip model of the hub with its own configuration; ``"open_clip:hf-hub:ORG/NAME"`` is the same;
    ``"timm:vit_small_patch14_dinov2"``, ``"timm:vit_small_patch14_dinov2@/path/to/file.safetensors"``
        a vision-only tower of timm, from the local hub cache or a local checkpoint; it has no text
        (``has_text`` is false).

    ``engine`` computes pictures: ``"torch"`` the tower's own modules, ``"onednn"`` the same weights by fused operators
    of a CPU in float32 (the embedded tower, open_clip's vision transformers), ``"auto"`` the latter where it can.
    Features agree within 1e-6 in every number of a unit vector; feature caches tell them apart. Gradients and autocast
    go through the modules with any engine.

    Nothing is fetched from a network unless ``allow_download`` is true and ``HF_HUB_OFFLINE`` is not set.
    Raises :class:`InputError` for an unknown name or engine, or one that cannot compute this tower here,
    :class:`MissingDependency` for an absent package or weight file and :class:`FileError` for a checkpoint that cannot
    be read.
    """
    if not isinstance(name, str):
        raise InputError(
            f"name is a {type(name).__name__}: give the name of a backbone, or wrap a model that you have with "
            "vlmadapt.from_model(model, preprocess, tokenizer)."
        )
    check_engine(engine)
    encoder = _open(f"open_clip:{name}" if is_hub(name) else name, device, allow_download)
    encoder.use_engine(engine)
    return encoder


def _open(name: str, device: str | torch.device, allow_download: bool) -> Encoder:
    family, _, rest = name.partition(":")
    if name == "embedded":
        from vlmadapt.backbones.embedded import EmbeddedEncoder

        return EmbeddedEncoder(device)
    if family == "open_clip" and rest:
        from vlmadapt.backbones.open_clip import OpenClipEncoder

        return OpenClipEncoder(rest, device, allow_download)
    if family == "timm" and rest:
        from vlmadapt.backbones.timm import TimmEncoder

        return TimmEncoder(rest, device, allow_download)
    if family == WRAPPED:
        raise InputError(
            f"name is {name!r}, a model that was wrapped and cannot be loaded by name: wrap it again with "
            "vlmadapt.from_model, and pass it as encoder=."
        )
    raise InputError(
        f"name is {name!r}, which is no backbone: use 'embedded', 'open_clip:ARCH/TAG', 'open_clip:ARCH@CHECKPOINT', "
        "'hf-hub:ORG/NAME' or 'timm:MODEL[@CHECKPOINT]'."
    )


def reads_text(name: str) -> bool:
    """Whether the backbone of that name, which :func:`load_encoder` may know, has a text tower."""
    return not name.startswith("timm:")


def check_encoder(encoder: object) -> None:
    """Raise :class:`InputError` unless it is a name or an encoder, or has what tells one from another."""
    if not isinstance(encoder, (str, Encoder)) and not hasattr(encoder, "fingerprint"):
        raise InputError(
            f"encoder is a {type(encoder).__name__}: give a backbone's name, what load_encoder gives, or a model "
            "wrapped with vlmadapt.from_model(model, preprocess, tokenizer)."
        )


@of_kinds
def pick_device(device: str) -> str:
    """Check ``device``; ``auto`` is CUDA where torch has it. Raises :class:`InputError` with the choices."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}: use cpu, cuda, cuda:1, ... or auto.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {device!r}, but torch sees no CUDA device here: use cpu.")
    return device
