"""The small trained parts of the embedded encoder, and the frozen numbers they lean on.

Two joint spaces, concatenated with weights 0.8 and 0.6, so that a cosine is ``.64 cos_A + .36 cos_B``:

* A [384], the space of the text tower. A picture is ``normalize(ConSE + head(f - mean))``. ConSE (arXiv 1312.5650) is
  the mean of the ten most probable ImageNet class-name embeddings, weighted by their probability; ``head`` is a
  residual (linear plus MLP) that starts at zero (ours).
* B [1280], the space of the image tower. A picture is ``normalize(f - mean)``, untouched by training; a text is
  an MLP of its embedding (ours).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.errors import FileError
from vlmadapt.files import read_tensors, write_tensors

HEADS_FILE = Path(__file__).with_name("embedded_heads.safetensors")
CONSE_CLASSES = 10
SPACE_WEIGHTS = (0.8, 0.6)


class EmbeddedHeads(nn.Module):
    """Tower outputs to the joint space.

    ``classes`` float32 [1000, W]: normalised ImageNet class-name embeddings; ``mean`` float32 [E]: of ``f`` over the
    training pictures; ``image_hidden`` and ``text_hidden``: widths of the two MLPs.
    """

    classes: Tensor
    mean: Tensor

    def __init__(self, classes: Tensor, mean: Tensor, image_hidden: int, text_hidden: int) -> None:
        super().__init__()
        text_width, image_width = classes.shape[1], mean.shape[0]
        self.register_buffer("classes", classes)
        self.register_buffer("mean", mean)
        self.image_linear = nn.Linear(image_width, text_width)
        self.image_inner = nn.Linear(image_width, image_hidden)
        self.image_outer = nn.Linear(image_hidden, text_width)
        self.text_inner = nn.Linear(text_width, text_hidden)
        self.text_outer = nn.Linear(text_hidden, image_width)
        for layer in (self.image_linear, self.image_outer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def conse(self, logits: Tensor) -> Tensor:
        """ImageNet logits [B, 1000] -> [B, W], the probability-weighted mean of the ten likeliest names."""
        top = logits.float().softmax(dim=-1).topk(CONSE_CLASSES, dim=-1)
        weights = top.values / top.values.sum(dim=-1, keepdim=True)
        return torch.einsum("bk,bkw->bw", weights, self.classes[top.indices])

    def image_a(self, features: Tensor, logits: Tensor) -> Tensor:
        return F.normalize(self.conse(logits) + self.residual(features), dim=-1)

    def residual(self, features: Tensor) -> Tensor:
        """What training adds to ConSE: [B, E] -> [B, W]."""
        centred = features.float() - self.mean
        return self.image_linear(centred) + self.image_outer(F.gelu(self.image_inner(centred)))

    def image_b(self, features: Tensor) -> Tensor:
        return F.normalize(features.float() - self.mean, dim=-1)

    @staticmethod
    def text_a(texts: Tensor) -> Tensor:
        return F.normalize(texts.float(), dim=-1)

    def text_b(self, texts: Tensor) -> Tensor:
        return F.normalize(self.text_outer(F.gelu(self.text_inner(self.text_a(texts)))), dim=-1)

    def images(self, features: Tensor, logits: Tensor) -> Tensor:
        """``features`` [B, E], ``logits`` [B, 1000] -> unit vectors float32 [B, W + E]."""
        return _joined(self.image_a(features, logits), self.image_b(features))

    def texts(self, texts: Tensor) -> Tensor:
        """Pooled text embeddings [T, W] -> unit vectors float32 [T, W + E]."""
        return _joined(self.text_a(texts), self.text_b(texts))

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Write the heads as float16 safetensors; ``metadata`` is kept beside them."""
        write_tensors(path, {name: value.half() for name, value in self.state_dict().items()}, metadata)


def _joined(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([SPACE_WEIGHTS[0] * a, SPACE_WEIGHTS[1] * b], dim=-1)


def load_heads(path: Path = HEADS_FILE) -> EmbeddedHeads:
    """Read what :meth:`EmbeddedHeads.save` wrote; raises :class:`FileError` naming the file."""
    tensors, _ = read_tensors(path)
    try:
        floats = {name: value.float() for name, value in tensors.items()}
        heads = EmbeddedHeads(
            floats["classes"],
            floats["mean"],
            image_hidden=len(floats["image_inner.bias"]),
            text_hidden=len(floats["text_inner.bias"]),
        )
        heads.load_state_dict(floats)
    except (KeyError, RuntimeError) as error:
        raise FileError(f"{path} does not hold the embedded heads: reinstall vlmadapt.") from error
    return heads.eval().requires_grad_(False)
