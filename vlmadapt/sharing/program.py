"""A fitted adapter, and the picture tower before it, as one ``torch.nn.Module`` that can be exported.

No argument is looked at in it: checks of finite numbers are no part of the graph, and NaN goes in and comes out.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from vlmadapt.adapters import Adapter
from vlmadapt.backbones import Encoder


class Program(nn.Module):
    """Features ``[B, D]``, or with an ``encoder`` pixels ``[B, 3, H, W]`` as its transform gives them, to class logits
    and calibrated probabilities, ``[B, C]`` each in the adapter's dtype. Rows of features need not be normalised."""

    encoder: Encoder | None

    def __init__(self, adapter: Adapter, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.adapter = with_numbers(adapter)
        # Not a submodule: of its towers only what pictures go through belongs into the program.
        self.__dict__["encoder"] = encoder

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        features = given if self.encoder is None else self.encoder.image_features(given)
        features = features.to(self.adapter.text_features.dtype)
        rows = features / torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        logits = self.adapter._logits(rows)
        return logits, (logits / self.adapter.temperature_).softmax(-1)


def with_numbers(adapter: Adapter) -> Adapter:
    """A copy whose ``numbers`` are arrays in place of tensors, so that they become constants of a program: what it
    does would else depend on tensors that a program knows no values of. Its encoder is left behind."""
    kept = [adapter.encoder, adapter.__dict__.get("_adapted")]
    twin = copy.deepcopy(adapter, {id(each): None for each in kept if each is not None})
    for module in twin.modules():
        if isinstance(module, Adapter):
            for name in module.numbers:
                value = getattr(module, name).detach().cpu().numpy()
                del module._buffers[name]
                setattr(module, name, np.array(value))
    return twin.eval().requires_grad_(False)
