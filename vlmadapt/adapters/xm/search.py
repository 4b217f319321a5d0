"""Validation search of XMAdapter's betas, alpha and gamma: two numbers at a time, the others held."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from vlmadapt.adapters.ranges import Range
from vlmadapt.training import GridLogits, Samples, cell_likelihoods, choose_in_grid, grid_accuracy, log_grid

GAMMAS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


class Searched(Protocol):
    """What the search asks of an :class:`XMAdapter`."""

    log_beta_text: Tensor
    gamma_logit: Tensor

    @property
    def num_classes(self) -> int: ...

    def searched(self, name: str) -> Range: ...

    def _zero_shot_logits(self, features: Tensor) -> Tensor: ...

    def gamma(self, features: Tensor) -> Tensor: ...

    def stream_scores(self, features: Tensor, *, image: bool, betas: Tensor) -> Tensor: ...

    def set_scalars(self, beta_image: float, beta_text: float, alpha: float, gamma: float) -> None: ...


@torch.no_grad()
def search(adapter: Searched, validation: Samples, *, with_gamma: bool) -> None:
    """Set the adapter's scalars to those that validate best.

    First image sharpness and alpha together, then text sharpness together with gamma (or, with gamma kept, alone).
    A class score is ``gamma * S_img(beta_i) + (1 - gamma) * S_txt(beta_t)``, so each stream is retrieved at all of its
    betas in one pass.
    """
    betas, alphas = log_grid(*adapter.searched("search_beta")), log_grid(*adapter.searched("search_alpha"))
    beta_text = adapter.log_beta_text.exp().double().reshape(1)

    def by_alpha(rows: slice) -> Any:
        features = validation.features[rows]
        base, gamma = adapter._zero_shot_logits(features), _gamma(adapter, features)
        image = adapter.stream_scores(features, image=True, betas=betas)
        text = adapter.stream_scores(features, image=False, betas=beta_text)[0]

        def at_beta(g: int) -> Any:
            scores = gamma * image[g] + (1 - gamma) * text
            return lambda a: base + alphas[a].to(base)[:, None, None] * scores

        return at_beta

    g, a = _best(by_alpha, adapter, validation.labels, (len(betas), len(alphas)))
    beta_image, alpha = betas[g : g + 1], float(alphas[a])

    def by_gamma(rows: slice) -> Any:
        features = validation.features[rows]
        base, gamma = adapter._zero_shot_logits(features), _gamma(adapter, features)
        image = adapter.stream_scores(features, image=True, betas=beta_image)[0]
        text = adapter.stream_scores(features, image=False, betas=betas)
        gammas = [torch.as_tensor(value).to(base) for value in GAMMAS] if with_gamma else [gamma]

        def at_beta(g: int) -> Any:
            return lambda a: torch.stack(
                [base + alpha * (gammas[number] * image + (1 - gammas[number]) * text[g]) for number in a.tolist()]
            )

        return at_beta

    g, a = _best(by_gamma, adapter, validation.labels, (len(betas), len(GAMMAS) if with_gamma else 1))
    bias = GAMMAS[a] if with_gamma else float(adapter.gamma_logit.sigmoid())
    adapter.set_scalars(float(beta_image), float(betas[g]), alpha, bias)


def _gamma(adapter: Searched, features: Tensor) -> Tensor:
    """The adapter's own share of the image stream: 0-d, or ``[B, 1]``."""
    gamma = adapter.gamma(features)
    return gamma if gamma.dim() == 0 else gamma.unsqueeze(-1)


def _best(logits: GridLogits, adapter: Searched, labels: Tensor, shape: tuple[int, int]) -> tuple[int, int]:
    """The cell of a grid of ``shape`` ``[G, A]`` that validates best."""
    classes, held = adapter.num_classes, shape[0]
    hits = grid_accuracy(logits, labels, classes, shape, held=held)
    return choose_in_grid(hits, len(labels), lambda g, a: cell_likelihoods(logits, labels, classes, g, a, held=held))
