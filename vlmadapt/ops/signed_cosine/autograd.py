"""What torch must know of the compiled operator of the signed-cosine graph: the shapes of its results."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.ops import library

ARGUMENTS = {"signed_cosine_top_k": 4}

if library.provides(ARGUMENTS):

    @library.register_fake("signed_cosine_top_k")
    def _top_k_fake(tile: Tensor, k: int, first_row: int, skip_diagonal: bool) -> tuple[Tensor, Tensor]:
        return tile.new_empty(len(tile), k, dtype=torch.int64), tile.new_empty(len(tile), k)
