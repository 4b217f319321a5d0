"""What a program is tried with: a picture that we draw, or features, and what the classifier says of them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmadapt.adapters import Adapter

SIZE = (97, 131)  # height and width of the picture; no square, so that a transform has something to do
ROWS = 8  # of features


def probe_picture() -> Image.Image:
    """Gradients, a ring and bars: nobody's picture, and the same everywhere."""
    height, width = SIZE
    rows, columns = np.mgrid[0:height, 0:width]
    ring = np.hypot(rows - height / 2, columns - width / 2) // 12 % 2
    channels = [rows * 255 // (height - 1), columns * 255 // (width - 1), 255 * ((ring + columns // 16) % 2)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def probe_features(adapter: Adapter) -> Tensor:
    """Unit rows ``[8, D]`` in the adapter's dtype: near class texts where there are any, else of any direction."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, adapter.width, generator=generator, dtype=torch.float64) / adapter.width**0.5
    if adapter.has_text:
        text = adapter.text_features.detach().double().cpu()
        rows = rows + text[torch.arange(ROWS) % len(text)]
    return torch.nn.functional.normalize(rows, dim=-1).to(adapter.text_features.dtype)
