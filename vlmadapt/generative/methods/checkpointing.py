"""Gradient checkpointing over frozen embeddings. Ours.

Of the reentrant kind it gives no gradients where no input of a layer asks for one, and what ``transformers`` does about
it (embeddings that ask, of either kind) fails in BLIP, which adds positions to them in place.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def watch_embeddings(model: nn.Module) -> list[RemovableHandle]:
    """Have the embeddings of ``model`` ask for gradients while ``transformers`` checkpoints its layers, so that what
    trains behind them gets its own. Otherwise nothing changes: backward stops at the first module that trains."""
    return [
        module.register_forward_hook(partial(_ask_for_gradients, model))
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    ]


def _ask_for_gradients(model: nn.Module, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
    if torch.compiler.is_compiling() or not (module.training and torch.is_grad_enabled()):
        return None
    asks = output.requires_grad
    if output.is_leaf if asks else any(map(_is_checkpointed, model.modules())):
        return output.requires_grad_().clone()  # A leaf may not be added to in place.
    return None


def _is_checkpointed(module: nn.Module) -> bool:
    return getattr(module, "gradient_checkpointing", False) is True
