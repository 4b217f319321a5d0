"""A short fingerprint of tensors, by which a checkpoint recognises its data."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def fingerprint_tensors(**tensors: Tensor | None) -> str:
    """SHA-256 over names, types, shapes and contents, as 64 hex digits; ``None`` counts as absent."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor is None:
            continue
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
