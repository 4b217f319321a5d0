"""ProKeR: kernel ridge regression of what zero-shot gets wrong; arXiv 2501.11175.

    k(f, g) = exp(-beta (1 - f . g))
    A       = (K / lam + I)^-1 (Y - S W^T)         K = k(S, S) [n, n], S the samples, Y [n, C] their labels, one-hot
    logits  = tau (f W^T + k(f, S) A)

A cache of Tip-Adapter whose values are solved for. Nothing is trained; beta and lam are searched on validation,
with more than 4,096 samples they are not: each candidate would take a minute.
Towards lam = 0 this is zero-shot; a large lam leaves the residuals as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.views import ViewsConfig
from vlmadapt.config import check_grid
from vlmadapt.errors import InputError
from vlmadapt.ops import cache_retrieval
from vlmadapt.training import Samples, check_range, choose_in_grid, log_grid

DIRECT = 16_000  # samples up to which K is held and factorised in place: 1 GB of float32
SEARCHED = 4096  # samples up to which beta and lam are searched: every candidate is a solution of its own
TOLERANCE = 1e-5  # of conjugate gradients beyond, relative to the right-hand side
MOST_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class ProKeRConfig(ViewsConfig):
    beta: float = field(default=5.0, metadata={"help": "sharpness of the kernel without validation samples"})
    lam: float = field(default=0.3, metadata={"help": "say of the samples without validation samples; 0 is zero-shot"})
    search_beta: tuple[float, float, int] = field(
        default=(0.5, 32.0, 7), metadata={"help": "range searched on validation: low, high, steps in equal ratios"}
    )
    search_lam: tuple[float, float, int] = field(
        default=(0.01, 10.0, 7), metadata={"help": "range searched on validation: low, high, steps in equal ratios"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "beta", low=0.0, low_allowed=False)
        check_range(self, "lam", low=0.0, low_allowed=False)
        check_grid(self, "search_beta")
        check_grid(self, "search_lam")


class ProKeR(Adapter):
    """A class without samples is a negative of all. Keeps ``keys [n, D]``, ``labels [n]`` and ``values [n, C]``, A."""

    name = "proker"
    config_class = ProKeRConfig
    needs_text = False
    grows = True
    numbers = ("beta",)
    keys: Tensor
    labels: Tensor
    values: Tensor
    beta: Tensor
    lam: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("keys", None)
        self.register_buffer("labels", None)
        self.register_buffer("values", None)
        self.register_buffer("beta", torch.tensor(self.config.beta, dtype=torch.float64))
        self.register_buffer("lam", torch.tensor(self.config.lam, dtype=torch.float64))

    @torch.no_grad()
    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        self.keys, self.labels = support.features.clone(), support.labels.clone()
        wanted = self._wanted()
        self._solve(wanted, self.config.beta, self.config.lam)
        if validation is not None and len(support) <= SEARCHED:
            self._search_widely(lambda: self._search(wanted, validation))

    def _extend(self, before: ProKeR, added: Samples) -> None:
        self.keys, self.labels = torch.cat([before.keys, added.features]), torch.cat([before.labels, added.labels])
        self._solve(self._wanted(), float(before.beta), float(before.lam))

    def _wanted(self) -> Tensor:
        """``Y - S W^T [n, C]``."""
        wanted = -self.keys @ self.text_features.T
        wanted[torch.arange(len(self.labels), device=wanted.device), self.labels] += 1
        return wanted

    def _search(self, wanted: Tensor, validation: Samples) -> None:
        """Each beta and lam needs a solution of its own, which all validation samples are scored by."""
        betas, lams = log_grid(*self.searched("search_beta")), log_grid(*self.searched("search_lam"))
        accuracy, likelihood = torch.zeros(2, len(betas), len(lams), dtype=torch.float64)
        for g, beta in enumerate(betas.tolist()):
            for a, lam in enumerate(lams.tolist()):
                self._solve(wanted, beta, lam)
                accuracy[g, a], likelihood[g, a] = self._score(validation)
        best_g, best_a = choose_in_grid(accuracy, len(validation), lambda g, a: likelihood[g, a])
        self._solve(wanted, float(betas[best_g]), float(lams[best_a]))

    def _solve(self, wanted: Tensor, beta: float, lam: float) -> None:
        self.beta.fill_(beta)
        self.lam.fill_(lam)
        if len(self.keys) <= DIRECT:
            self.values = self._direct_solution(wanted)
        else:
            self.values = conjugate_gradients(lambda x: self._from_samples(self.keys, x) / lam + x, wanted)

    def _direct_solution(self, wanted: Tensor) -> Tensor:
        """Holds one ``[n, n]`` matrix: K is symmetric, and its transpose lies as LAPACK writes a factor, in place."""
        kernel = (self.keys @ self.keys.T).sub_(1).mul_(float(self.beta)).exp_().div_(float(self.lam))
        kernel.diagonal().add_(1)
        factor = kernel.mT
        try:
            torch.linalg.cholesky(factor, out=factor)
        except torch.linalg.LinAlgError as error:
            raise InputError(
                f"lam is {float(self.lam):g}, for which the kernel of these samples cannot be factorised in "
                f"{kernel.dtype}: use a larger lam, or features in float64."
            ) from error
        half = torch.linalg.solve_triangular(factor, wanted, upper=False)
        # By rows, as it is read back from a file: products round by their layout.
        return torch.linalg.solve_triangular(factor.mT, half, upper=True).contiguous()

    def _from_samples(self, features: Tensor, values: Tensor) -> Tensor:
        """``k(features, S) @ values``, without the kernel."""
        return cache_retrieval(features, self.keys, values=values, beta=float(self.beta))

    def _logits(self, features: Tensor) -> Tensor:
        return self._zero_shot_logits(features) + self.logit_scale * self._from_samples(features, self.values)

    def hyperparameters(self) -> dict[str, float]:
        return {"beta": float(self.beta), "lam": float(self.lam)}


def conjugate_gradients(product: Callable[[Tensor], Tensor], wanted: Tensor) -> Tensor:
    """``x [n, C]`` with ``product(x) = wanted`` for a symmetric positive product, all columns at once."""
    x, residual = torch.zeros_like(wanted), wanted.clone()
    direction, size = residual.clone(), residual.square().sum(0)
    enough = (TOLERANCE**2 * size).clamp(min=torch.finfo(wanted.dtype).tiny)
    for _ in range(MOST_STEPS):
        if bool((size <= enough).all()):
            break
        image = product(direction)
        # A column that has arrived divides zero by zero: it stays where it is.
        step = torch.where(size > enough, size / (direction * image).sum(0), 0)
        x += step * direction
        residual -= step * image
        before, size = size, residual.square().sum(0)
        direction = residual + size / before.clamp(min=torch.finfo(wanted.dtype).tiny) * direction
    return x
