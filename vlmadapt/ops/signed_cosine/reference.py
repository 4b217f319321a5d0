"""The signed-cosine graph (arXiv 2410.07854) in plain PyTorch: the dense matrix, the truth of the tests."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.signed_cosine.checks import Diagonal


def signed_cosine_reference(targets: Tensor, sources: Tensor, *, diagonal: Diagonal = "keep") -> Tensor:
    """The dense ``[n_t, n_s]`` matrix ``r`` in plain PyTorch: the truth of the tests.

    targets ``[n_t, D]``, sources ``[n_s, D]``, diagonal: as in :func:`signed_cosine_degrees`.
    """
    dtype = accumulation_dtype(targets.dtype)
    dense = normalize(targets.to(dtype), dim=-1) @ normalize(sources.to(dtype), dim=-1).T
    if diagonal == "keep":
        return dense
    own = torch.eye(len(targets), dtype=torch.bool, device=dense.device)
    return torch.where(own, -dense if diagonal == "negate" else 0, dense)
