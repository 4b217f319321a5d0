"""A small few-shot problem with the geometry of image-text features, for every adapter test.

Image-image cosines lie around .7, image-text cosines around .25, as CLIP has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vlmadapt.backbones import TokenInputs
from vlmadapt.modes import usual

TAU = 50.0


@dataclass(frozen=True)
class Problem:
    text: Tensor
    negative: Tensor
    features: Tensor
    labels: Tensor
    val_features: Tensor
    val_labels: Tensor
    queries: Tensor
    query_labels: Tensor

    @property
    def fit_arguments(self):
        return self.features, self.labels, self.val_features, self.val_labels

    def without_class(self, label):
        keep = self.labels != label
        return replace(self, features=self.features[keep], labels=self.labels[keep])


def make_problem(classes=5, shots=4, width=24, dtype=torch.float64, seed=0) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    common = 1.5 * torch.nn.functional.normalize(randn(width), dim=-1)
    prototypes = torch.nn.functional.normalize(randn(classes, width), dim=-1)
    modality = torch.nn.functional.normalize(randn(width), dim=-1)

    def draw(count):
        labels = torch.arange(classes).repeat(count)
        noise = 0.6 * randn(len(labels), width) / width**0.5
        return torch.nn.functional.normalize(common + prototypes[labels] + noise, dim=-1).to(dtype), labels

    text = torch.nn.functional.normalize(1.5 * modality + 0.7 * prototypes, dim=-1).to(dtype)
    samples = (*draw(shots), *draw(2), *draw(6))
    denied = torch.nn.functional.normalize(text.double() + 0.5 * randn(width) / width**0.5, dim=-1).to(dtype)
    return Problem(text, denied, *samples)


class TokenEncoder:
    """An encoder with a token table: a text's feature is the mean of its tokens', a class's word means the class.

    The last token of a class name that is a number stands for that class of ``text``; all others are noise.
    """

    name = "tokens"
    fingerprint = "tokens"

    def __init__(self, text: Tensor):
        self.text = text.double()
        self.width = text.shape[1]

    def transform(self, image):
        raise NotImplementedError

    def encode_images(self, pixels):
        raise NotImplementedError

    def token_inputs(self, texts):
        words = [["<start>", *one.rstrip(".").split(), "<end>"] for one in texts]
        longest = max(map(len, words))
        tokens = torch.tensor([[self._token(word) for word in row] + [0] * (longest - len(row)) for row in words])
        mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in words])
        return TokenInputs(self._table()[tokens], tokens, mask)

    def encode_tokens(self, inputs, normalize=True):
        weights = inputs.mask.unsqueeze(-1)
        return torch.nn.functional.normalize((inputs.embeddings * weights).sum(1), dim=-1)

    def encode_texts(self, texts, normalize=True):
        return self.encode_tokens(self.token_inputs(texts))

    def _token(self, word):
        return int(word) + 100 if word.isdigit() else 1 + sum(map(ord, word)) % 99

    def _table(self):
        noise = torch.randn(100, self.width, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        return torch.cat([0.02 * noise, self.text])


class AttentionEncoder(TokenEncoder):
    """One whose text tower looks at the other tokens a little, in two layers."""

    @usual(grad=True)
    def __init__(self, text: Tensor):
        super().__init__(text)
        generator = torch.Generator().manual_seed(11)
        self.tower = nn.Sequential(SmallAttention(self.width, generator), SmallAttention(self.width, generator))

    def text_module(self):
        return self.tower

    def encode_tokens(self, inputs, normalize=True):
        mask, states = inputs.mask, inputs.embeddings
        for layer in self.tower:
            states = states + layer(states, mask)
        return super().encode_tokens(replace(inputs, embeddings=states))


class SmallAttention(nn.Module):
    """One head; float64 ``[T, L, E]`` to the same, masked tokens unseen."""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        for role in ("query", "key", "value"):
            linear = nn.Linear(width, width, device="meta")
            for name, shape, deviation in (("weight", (width, width), 0.03), ("bias", (width,), 0.001)):
                drawn = torch.randn(*shape, dtype=torch.float64, generator=generator)
                setattr(linear, name, nn.Parameter(deviation * drawn, requires_grad=False))
            self.add_module(role, linear)

    def forward(self, states, mask):
        query, key, value = (getattr(self, role)(states) for role in ("query", "key", "value"))
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask.unsqueeze(1))
