"""Where an adapter's negative text features come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmadapt.adapters.checks import normalize
from vlmadapt.adapters.prompts import NO_TEMPLATE
from vlmadapt.checks import check_matrix
from vlmadapt.errors import InputError, shape_of

if TYPE_CHECKING:
    from vlmadapt.adapters.base import Adapter


@torch.no_grad()
def negative_features_of(adapter: Adapter, given: Tensor | None, named: bool) -> Tensor:
    """``given``, checked and normalised ``[C, D]``, or those of the paper's prompt by the adapter's encoder.

    ``named`` says whether the class names are the user's. Without class text there are none: zeros.
    Raises :class:`InputError` when nothing can be had, and for negatives of no text.
    """
    if not adapter.has_text:
        if given is not None:
            raise InputError("negative_text_features is given without text_features: give both or neither.")
        return torch.zeros_like(adapter.text_features)
    if given is None:
        encode = getattr(adapter.encoder, "encode_texts", None)
        if encode is None or not named:
            raise InputError(
                f"negative_text_features is missing: {adapter.name} needs the text features of negative prompts "
                "[C, D], or an encoder= and class_names= to make them."
            )
        given = encode([NO_TEMPLATE.replace("{}", name) for name in adapter.class_names])
    matrix = check_matrix("negative_text_features", given, adapter.width)
    if len(matrix) != adapter.num_classes:
        raise InputError(
            f"negative_text_features is {shape_of(matrix)} for {adapter.num_classes} classes: give one row a class."
        )
    return normalize(matrix.detach().to(adapter.text_features))
