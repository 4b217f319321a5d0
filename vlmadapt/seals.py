"""The hash that a file keeps of its own content, by which damage is told; files of 0.1.0 have none. Ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmadapt.errors import FileError

SEAL = "content_sha256"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the hash of its content: of values, not of how they are laid out."""
    return {**value, SEAL: _hash_of_json(json.loads(json.dumps(value)))}


def unsealed(path: str | Path, value: Mapping[str, Any], again: str) -> dict[str, Any]:
    """The object of ``path`` without its hash.

    Raises :class:`FileError` where the content is another than the hash says; ``again`` says how to make the file anew.
    """
    content = without_seal(value)
    if _misspelt(value) or (SEAL in value and value[SEAL] != _hash_of_json(content)):
        raise _damage(path, again)
    return content


def sealed_metadata(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a file of contiguous ``tensors`` on the CPU, with the hash of both."""
    return {**metadata, SEAL: _hash_of_tensors(tensors, metadata)}


def unsealed_metadata(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], again: str
) -> dict[str, str]:
    """What :func:`sealed_metadata` was given; raises as :func:`unsealed` does."""
    content = without_seal(metadata)
    if _misspelt(metadata) or (SEAL in metadata and metadata[SEAL] != _hash_of_tensors(tensors, content)):
        raise _damage(path, again)
    return content


def without_seal(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in value.items() if name != SEAL}


def _misspelt(value: Mapping[str, Any]) -> bool:
    """Whether damage hit the name of the hash: a file would pass for one of 0.1.0, whatever else is damaged."""
    return SEAL not in value and bool(get_close_matches(SEAL, list(value), cutoff=0.9))


def _damage(path: str | Path, again: str) -> FileError:
    return FileError(f"{path} is damaged or was edited, for its content is not what its {SEAL} says: {again}.")


def _hash_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _hash_of_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of names, types, shapes and bytes; the order of the tensors does not count."""
    described = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([described, dict(metadata)], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
