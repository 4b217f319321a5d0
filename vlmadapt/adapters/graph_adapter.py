"""GraphAdapter: class text features read from a text graph and an image graph; arXiv 2309.13625.

    nodes of graph s: X_s [C, D], class text features (s = text) or class means of image features (s = image)
    a_cj  = max(cos(w_c, x_j), 0)                       class c joined to the graph as one more node
    h_sc  = w_c / d_c + sum_j a_cj / sqrt(d_c d_cj) x_j                     d_c = 1 + sum_j a_cj
    d_cj  = 1 + sum over i != j of max(cos(x_i, x_j), 0) + a_cj             (unit diagonal: A = max(cos, 0) + I off it)
    z_sc  = tanh(h_sc U_s^T + b_sc)                     one graph convolution, symmetrically normalised      paper
    z_c   = beta z_text,c + (1 - beta) z_image,c        and   W'_c = alpha w_c + (1 - alpha) z_c              paper
    logits = tau * f @ normalize(W')^T

Everything in h is frozen, so that it is computed once per fit, over tiles of classes. The start (U the identity, b
zero), the fall-back of a class without samples to its text feature in the image graph, and searching alpha and beta on
validation after training are ours. Trained: U_s [D, D] and b_s [C, D] of both graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.hegraph.graph import prototypes
from vlmadapt.adapters.trained import TrainedClassifier
from vlmadapt.config import AdapterConfig
from vlmadapt.training import Samples, TrainConfig, check_range, tiles
from vlmadapt.training.layers import empty_linear

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
BETAS = (0.0, 0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True, kw_only=True)
class GraphAdapterConfig(TrainConfig, AdapterConfig):
    epochs: int = field(default=30, metadata={"help": "passes over the training samples"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    adam_eps: float = field(default=1e-4, metadata={"help": "AdamW's epsilon"})
    alpha: float = field(default=0.7, metadata={"help": "share of the class's own text feature, in [0, 1]"})
    beta: float = field(default=0.7, metadata={"help": "share of the text graph beside the image graph, in [0, 1]"})
    search_shares: bool = field(default=True, metadata={"help": "search alpha and beta on validation after training"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "alpha", low=0.0, high=1.0)
        check_range(self, "beta", low=0.0, high=1.0)


class GraphAdapter(TrainedClassifier):
    """Any number of classes and any width; a class without samples keeps its text feature as its image node."""

    name = "graph-adapter"
    config_class = GraphAdapterConfig
    text_input: Tensor
    image_input: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        dtype = self.text_features.dtype
        for name in ("text_input", "image_input"):
            self.register_buffer(name, None)
        self.text_map = empty_linear(self.width, self.width, dtype, bias=False)
        self.image_map = empty_linear(self.width, self.width, dtype, bias=False)
        self.text_bias = nn.Parameter(torch.zeros_like(self.text_features))
        self.image_bias = nn.Parameter(torch.zeros_like(self.text_features))
        for name in ("alpha", "beta"):
            self.register_buffer(name, torch.tensor(getattr(self.config, name), dtype=torch.float64))

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        text = self.text_features
        self.text_input = joined_aggregate(text, text)
        self.image_input = joined_aggregate(text, prototypes(support.features, support.labels, text))
        for layer in (self.text_map, self.image_map):
            nn.init.eye_(layer.weight)
        for bias in (self.text_bias, self.image_bias):
            nn.init.zeros_(bias)
        self.set_shares(self.config.alpha, self.config.beta)
        self._train(support, validation, options)
        if validation is not None and self.config.search_shares:
            candidates = [(self.config.alpha, self.config.beta), *((alpha, beta) for alpha in ALPHAS for beta in BETAS)]
            self._choose(candidates, lambda shares: self.set_shares(*shares), validation)
        self.classifier = self.adapted_text().detach()

    @torch.no_grad()
    def set_shares(self, alpha: float, beta: float) -> None:
        """What validation searches: shares ``alpha`` of a class's own text feature and ``beta`` of the text graph."""
        self.alpha.fill_(alpha)
        self.beta.fill_(beta)

    def adapted_text(self) -> Tensor:
        """``W' [C, D]`` of the weights as they are, normalised; differentiable in them."""
        alpha, beta = self.alpha.to(self.text_features.dtype), self.beta.to(self.text_features.dtype)
        text = torch.tanh(self.text_map(self.text_input) + self.text_bias)
        image = torch.tanh(self.image_map(self.image_input) + self.image_bias)
        read = beta * text + (1 - beta) * image
        return normalize(alpha * self.text_features + (1 - alpha) * read.to(self.text_features.dtype), dim=-1)

    def _configured(self, values: Mapping[str, float]) -> GraphAdapterConfig:
        return self.config  # trained at the configured shares, which are searched afterwards

    def _use(self, values: Mapping[str, float]) -> None:
        self.set_shares(values["alpha"], values["beta"])
        self.classifier = self.adapted_text().detach()

    def hyperparameters(self) -> dict[str, float]:
        return {"alpha": float(self.alpha), "beta": float(self.beta)}


@torch.no_grad()
def joined_aggregate(classes: Tensor, nodes: Tensor) -> Tensor:
    """``h [C, D]``: each of ``classes [C, D]`` joined to the graph of ``nodes [N, D]`` and aggregated, once.

    All rows normalised. Class ``c`` changes the degree of every node it is joined to, so that each class sees a graph
    of its own; only its own row is needed. Tiles of classes: no ``[C, N]`` matrix is held.
    """
    inner = torch.cat([(nodes[some] @ nodes.T).clamp(min=0).sum(1) for some in tiles(len(nodes), len(nodes))])
    own = nodes.square().sum(1).clamp(min=0)
    degrees = 1 + inner - own
    rows = []
    for some in tiles(len(classes), len(nodes)):
        tile = classes[some]
        edges = (tile @ nodes.T).clamp(min=0)
        degree = 1 + edges.sum(1, keepdim=True)
        weights = edges / (degree * (degrees + edges)).sqrt()
        rows.append(tile / degree + weights @ nodes)
    return torch.cat(rows)
