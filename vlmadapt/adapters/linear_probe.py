"""Linear probe: L2-regularised multinomial logistic regression on the image features alone.

    logits = f @ U.T + b            (U, b) minimise  sum of cross-entropies + ||U||^2 / (2 C)        arXiv 2103.00020

The regularisation strength C is chosen on validation. The text features are not used.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.base import Adapter
from vlmadapt.config import AdapterConfig, check_grid
from vlmadapt.errors import InputError
from vlmadapt.training import Samples, check_range, log_grid

SMALL_PROBLEM = 4_000_000  # numbers in the matrix of samples


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig(AdapterConfig):
    c: float = field(default=10.0, metadata={"help": "inverse regularisation strength without validation samples"})
    search_c: tuple[float, float, int] = field(
        default=(1.0, 1000.0, 7), metadata={"help": "range searched on validation: low, high, steps in equal ratios"}
    )
    max_iterations: int = field(default=1000, metadata={"help": "L-BFGS iterations at most"})
    tolerance: float = field(default=1e-5, metadata={"help": "L-BFGS stops below this gradient"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "c", low=0.0, low_allowed=False)
        check_grid(self, "search_c")
        check_range(self, "max_iterations", low=1)
        check_range(self, "tolerance", low=0.0, low_allowed=False)


class LinearProbe(Adapter):
    """scikit-learn's L-BFGS solver. A class without samples gets probability exactly zero (logit -inf)."""

    name = "linear-probe"
    config_class = LinearProbeConfig
    least_classes = 2
    needs_text = False
    c: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.weight = nn.Parameter(torch.zeros_like(self.text_features))
        self.bias = nn.Parameter(self.text_features.new_zeros(self.num_classes))
        self.register_buffer("c", torch.tensor(self.config.c, dtype=torch.float64))

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        present = support.labels.unique()
        if len(present) < 2:
            raise InputError(
                f"labels holds only class {int(present[0])}: a linear probe needs samples of at least two classes."
            )
        spanned = span_coordinates(support.features.detach().double().cpu())  # once for all strengths
        if validation is None:
            self._solve(spanned, support.labels.cpu(), self.config.c)
        else:
            self._search_widely(lambda: self._search(spanned, support.labels.cpu(), validation))

    def _search(self, spanned: tuple[Tensor, Tensor], labels: Tensor, validation: Samples) -> None:
        strengths = log_grid(*self.searched("search_c")).tolist()
        self._choose(strengths, lambda c: self._solve(spanned, labels, c), validation)

    @torch.no_grad()
    def _solve(self, spanned: tuple[Tensor, Tensor], labels: Tensor, c: float) -> None:
        """Fit with strength ``c`` to samples of ``labels [n]``, ``spanned`` by :func:`span_coordinates`."""
        weight, bias = self._regression(*spanned, labels, c)
        present = labels.unique()
        full_weight = torch.zeros(self.weight.shape, dtype=torch.float64)
        full_bias = torch.full(self.bias.shape, -torch.inf, dtype=torch.float64)
        full_weight[present], full_bias[present] = weight, bias
        self.weight.copy_(full_weight)
        self.bias.copy_(full_bias)
        self.c.fill_(c)

    def _regression(self, coordinates: Tensor, basis: Tensor, labels: Tensor, c: float) -> tuple[Tensor, Tensor]:
        """Weights and biases of the classes present, float64 ``[present, D]`` and ``[present]``."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        model = LogisticRegression(C=c, max_iter=self.config.max_iterations, tol=self.config.tolerance)
        # Few-shot problems are far too small for BLAS threads, which would only wait for each other.
        threads = 1 if coordinates.numel() < SMALL_PROBLEM else None
        with warnings.catch_warnings(), threadpool_limits(threads, user_api="blas"):
            # Weakly regularised candidates may use up their iterations, and one shot looks like a regression to
            # scikit-learn; validation judges the result as it is.
            warnings.simplefilter("ignore")
            model.fit(coordinates.numpy(), labels.numpy())
        weight = torch.from_numpy(model.coef_) @ basis.T
        bias = torch.from_numpy(numpy.atleast_1d(model.intercept_))
        if len(weight) == 1:  # scikit-learn keeps one row for two classes: its logit is the difference.
            return torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
        return weight, bias

    def _logits(self, features: Tensor) -> Tensor:
        return features @ self.weight.T + self.bias

    def hyperparameters(self) -> dict[str, float]:
        return {"c": float(self.c)}


def span_coordinates(features: Tensor) -> tuple[Tensor, Tensor]:
    """``features [n, D]`` in an orthonormal basis of their span: ``[n, r]`` and basis ``[D, r]``, r = min(n, D).

    L2-regularised weights lie in the span of the samples, so that solving there gives the same minimum from fewer
    unknowns: 32 instead of 1664 at one shot of 32 classes.
    """
    if features.shape[0] >= features.shape[1]:
        return features, torch.eye(features.shape[1], dtype=features.dtype)
    basis, _ = torch.linalg.qr(features.T)
    return features @ basis, basis
