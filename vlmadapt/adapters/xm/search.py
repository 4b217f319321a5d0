"""Validation search of XMAdapter's betas, alpha and gamma: two numbers at a time, the others held."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from vlmadapt.training import Samples, accuracy, choose_in_grid, log_grid, log_likelihood

GAMMAS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


class Searched(Protocol):
    """What the search asks of an :class:`XMAdapter`."""

    config: Any
    log_beta_text: Tensor
    gamma_logit: Tensor

    def _zero_shot_logits(self, features: Tensor) -> Tensor: ...

    def streams(self, features: Tensor) -> tuple[Tensor, Tensor]: ...

    def gamma(self, features: Tensor, text_queries: Tensor) -> Tensor: ...

    def stream_scores(self, features: Tensor, *, image: bool, beta: float) -> Tensor: ...

    def set_scalars(self, beta_image: float, beta_text: float, alpha: float, gamma: float) -> None: ...


@torch.no_grad()
def search(adapter: Searched, validation: Samples, *, with_gamma: bool) -> None:
    """Set the adapter's scalars to those that validate best.

    First image sharpness and alpha together, then text sharpness together with gamma (or, with gamma kept, alone).
    A class score is ``gamma * S_img(beta_i) + (1 - gamma) * S_txt(beta_t)``, so each stream is retrieved once a beta.
    """
    betas, alphas = log_grid(*adapter.config.search_beta).tolist(), log_grid(*adapter.config.search_alpha)
    base = adapter._zero_shot_logits(validation.features)
    text_queries, _ = adapter.streams(validation.features)
    own_gamma = adapter.gamma(validation.features, text_queries)
    gamma = own_gamma if own_gamma.dim() == 0 else own_gamma.unsqueeze(-1)
    beta_text = float(adapter.log_beta_text.exp())
    text = adapter.stream_scores(validation.features, image=False, beta=beta_text)
    images = [adapter.stream_scores(validation.features, image=True, beta=beta) for beta in betas]

    rows = [_by_alpha(base, gamma * image + (1 - gamma) * text, alphas) for image in images]
    g, a = _best(rows, validation.labels)
    beta_image, image, alpha = betas[g], images[g], float(alphas[a])

    texts = [adapter.stream_scores(validation.features, image=False, beta=beta) for beta in betas]
    gammas = [torch.as_tensor(value).to(base) for value in GAMMAS] if with_gamma else [gamma]
    rows = [torch.stack([base + alpha * (mix * image + (1 - mix) * text) for mix in gammas]) for text in texts]
    g, a = _best(rows, validation.labels)
    bias = GAMMAS[a] if with_gamma else float(adapter.gamma_logit.sigmoid())
    adapter.set_scalars(beta_image, betas[g], alpha, bias)


def _by_alpha(base: Tensor, scores: Tensor, alphas: Tensor) -> Tensor:
    return base + alphas.to(base)[:, None, None] * scores


def _best(rows: list[Tensor], labels: Tensor) -> tuple[int, int]:
    """``rows`` holds one ``[A, B, C]`` stack of logits for each of G settings; the best cell of ``[G, A]``."""
    hits = torch.stack([accuracy(row, labels) for row in rows])

    def tie_break(g: Tensor, a: Tensor) -> Tensor:
        return torch.stack([log_likelihood(rows[i][j], labels) for i, j in zip(g.tolist(), a.tolist(), strict=True)])

    return choose_in_grid(hits, len(labels), tie_break)
