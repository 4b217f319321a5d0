"""A fitted adapter on disk: ``adapter.safetensors`` (its state) and ``adapter.json`` (everything else)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from vlmadapt.adapters.images import ImageEncoder
from vlmadapt.errors import FileError, InputError, VlmadaptError
from vlmadapt.files import atomic_path, check_format, read_json, read_tensors, sha256_of_file

if TYPE_CHECKING:
    from vlmadapt.adapters.base import Adapter

FORMAT_VERSION = 1
TENSORS = "adapter.safetensors"
DESCRIPTION = "adapter.json"
AGAIN = "make it again with vlmadapt fit, compare or tune, or with adapter.fit and adapter.save"


def save(adapter: Adapter, folder: Path) -> Path:
    header = {
        "adapter": adapter.name,
        "logit_scale": adapter.logit_scale,
        "class_names": list(adapter.class_names),
        "config": adapter.config.as_dict(),
        "hyperparameters": adapter.hyperparameters(),
        "encoder": _encoder_identity(adapter.encoder),
    }
    return write_pair(folder, adapter.state_dict(), header)


def write_pair(folder: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Both files are written in full beside the old ones before either is renamed over them.

    Raises :class:`FileError` where that fails.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(folder / DESCRIPTION) as description, atomic_path(folder / TENSORS) as tensors:
        try:
            safetensors.torch.save_file(state, tensors)
        except safetensors.SafetensorError as error:
            raise FileError(f"could not write {folder / TENSORS}: {error}.") from error
        # A crash between the two renames must not leave a pair that looks whole.
        header = {"format_version": FORMAT_VERSION, **header, "tensors_sha256": sha256_of_file(tensors)}
        with open(description, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(header, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    return folder


def read_pair(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors :func:`write_pair` wrote; raises :class:`FileError` unless they belong together."""
    path = folder / DESCRIPTION
    header = read_json(path)
    version = header.get("format_version") if isinstance(header, dict) else None
    check_format(path, version, FORMAT_VERSION, AGAIN)
    if sha256_of_file(folder / TENSORS) != header.get("tensors_sha256"):
        raise FileError(f"{folder / TENSORS} is not the file {DESCRIPTION} was written with: save the adapter again.")
    state, _ = read_tensors(folder / TENSORS)
    return header, state


def load(folder: Path, encoder: ImageEncoder | None) -> Adapter:
    """The adapter in ``folder``. Raises :class:`FileError` for missing or damaged files."""
    from vlmadapt.adapters.registry import create_adapter

    header, state = read_pair(folder)
    if "encoder" not in header:
        raise FileError(f"{folder / DESCRIPTION} describes no few-shot classifier: attach its method and load there.")
    _refuse_other_encoder(folder, header["encoder"], encoder)
    try:
        adapter = create_adapter(
            header["adapter"],
            state["text_features"],
            header["logit_scale"],
            header["config"],
            class_names=header["class_names"],
            encoder=encoder,
            negative_text_features=state.get("negative_text_features"),
        )
        for name, tensor in state.items():
            _place(adapter, name, tensor)
    except (KeyError, AttributeError, VlmadaptError) as error:
        raise FileError(
            f"{folder / DESCRIPTION} does not describe an adapter this version knows ({error}): fit again."
        ) from error
    adapter.fitted_ = True
    return adapter.eval()


def _place(adapter: nn.Module, name: str, tensor: Tensor) -> None:
    """Set one entry of the state; shapes that depend on the support set are only known here."""
    path, _, leaf = name.rpartition(".")
    module = adapter.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor)
    elif leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        raise AttributeError(f"unknown tensor {name}")


def _encoder_identity(encoder: ImageEncoder | None) -> dict[str, str] | None:
    return None if encoder is None else {"name": encoder.name, "fingerprint": encoder.fingerprint}


def _refuse_other_encoder(folder: Path, stored: dict[str, Any] | None, encoder: ImageEncoder | None) -> None:
    if stored is not None and encoder is not None and stored["fingerprint"] != encoder.fingerprint:
        raise InputError(
            f"{folder} was fitted with encoder {stored['name']}, not with this {encoder.name}: load that encoder."
        )
