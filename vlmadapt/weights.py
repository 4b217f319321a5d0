"""Weights on disk as a pair that belongs together: ``adapter.safetensors`` and ``adapter.json`` (all but tensors)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from vlmadapt.atomic import atomic_path
from vlmadapt.errors import FileError
from vlmadapt.files import check_format, naming_tensors, read_json, read_tensors, sha256_of_file
from vlmadapt.seals import sealed, unsealed

FORMAT_VERSION = 1
TENSORS = "adapter.safetensors"
DESCRIPTION = "adapter.json"
AGAIN = "make it again with vlmadapt fit, compare or tune, or with adapter.fit and adapter.save"


def write_pair(folder: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Both files are written in full beside the old ones before either is renamed over them.

    Raises :class:`FileError` where that fails.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(folder / DESCRIPTION) as description, atomic_path(folder / TENSORS) as tensors:
        with naming_tensors(folder / TENSORS):
            safetensors.torch.save_file(state, tensors)
        # A crash between the two renames must not leave a pair that looks whole.
        header = {"format_version": FORMAT_VERSION, **header, "tensors_sha256": sha256_of_file(tensors)}
        text = json.dumps(sealed(header), indent=2, ensure_ascii=False, allow_nan=False)
        with open(description, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    return folder


def read_pair(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors :func:`write_pair` wrote; raises :class:`FileError` unless they belong together."""
    path = folder / DESCRIPTION
    header = read_json(path)
    version = header.get("format_version") if isinstance(header, dict) else None
    check_format(path, version, FORMAT_VERSION, AGAIN)
    header = unsealed(path, header, AGAIN)
    if sha256_of_file(folder / TENSORS) != header.get("tensors_sha256"):
        raise FileError(f"{folder / TENSORS} is not the file {DESCRIPTION} was written with: save the adapter again.")
    state, _ = read_tensors(folder / TENSORS)
    return header, state
