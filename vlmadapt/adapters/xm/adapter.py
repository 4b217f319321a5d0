"""XMAdapter: an image cache and a text cache, fused; arXiv 2404.12588.

    G_T = normalize(MetaNet(W))          [C, H]     text keys, one a class                           paper
    g   = normalize(Img2TxtNet(f))       [B, H]     text queries, made from the image feature        paper
    A_img[b, k] = exp(-beta_i * (1 - f_b . F_k))                                                     paper
    A_txt[b, k] = exp(-beta_t * (1 - g_b . G_T[y_k]))                                                paper
    A      = gamma * A_img + (1 - gamma) * A_txt                                                     paper
    logits = tau * f @ W.T + alpha * (sum of A[b, k] over the entries of each class)                 paper

    delta_b = mean over k of |A_img - A_txt|, own cache entry left out        hard samples: paper; formula: ours
    w_b     = 1 + hardness * (delta_b - min) / (max - min) within the batch   ours
    loss    = sum w_b CE_b / sum w_b                                          ours

gamma is the sigmoid of a trained number ("learned"), searched on validation ("fixed"), or the sigmoid of a linear
gate on [f, g] ("per_sample"): all three are our reading of "adaptive". Separate betas, standardised similarities
and the start (MetaNet and Img2TxtNet as identity, or orthogonal where H differs from D, so that step 0 is the
training-free method) are ours too. Trained: F, MetaNet, Img2TxtNet, gamma, both betas and alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.cache import CacheAdapter
from vlmadapt.adapters.reweight import weighted
from vlmadapt.adapters.trained import TrainedAdapter
from vlmadapt.adapters.xm.config import XMAdapterConfig
from vlmadapt.adapters.xm.search import search
from vlmadapt.ops import PreparedCache, cache_retrieval, cache_retrieval_multi_beta
from vlmadapt.training import ParameterGroup, Samples
from vlmadapt.training.layers import Projection, empty_linear

SCALARS = ("log_beta_image", "log_beta_text", "log_alpha", "gamma_logit")


class XMAdapter(CacheAdapter, TrainedAdapter):
    """A class without samples has no entry in either cache and keeps its zero-shot logit.

    With validation samples, betas, alpha and gamma are searched before training (where to start) and betas and alpha
    again after it (with gamma, when fixed).
    """

    name = "xmadapter"
    config_class = XMAdapterConfig
    log_beta_image: Tensor
    log_beta_text: Tensor
    log_alpha: Tensor
    gamma_logit: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        dtype = self.text_features.dtype
        hidden = self.config.hidden_width or self.width
        self.register_parameter("keys", None)
        self.meta_net = Projection(self.width, hidden, self.config.mlp_width, dtype)
        self.img2txt_net = Projection(self.width, hidden, self.config.mlp_width, dtype)
        for name in SCALARS:
            self.register_parameter(name, nn.Parameter(torch.zeros((), dtype=dtype)))
        self.gamma_logit.requires_grad_(self.config.fusion != "fixed")
        self.gate: nn.Linear | None = None
        if self.config.fusion == "per_sample":
            self.gate = empty_linear(self.width + hidden, 1, dtype, bias=False)

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        self._remember(support)
        self._start(support, torch.Generator().manual_seed(options.seed))
        if validation is not None:
            self._search_widely(lambda: search(self, validation, with_gamma=True))
        names = SCALARS if self.config.fusion != "fixed" else SCALARS[:-1]
        scalars = (*names, "gate") if self.gate is not None else names
        groups = [ParameterGroup(scalars, lr=self.config.scalar_lr, weight_decay=0.0)]
        self._train(support, validation, options, groups)
        if validation is not None:
            self._search_widely(lambda: search(self, validation, with_gamma=self.config.fusion == "fixed"))

    @torch.no_grad()
    def _start(self, support: Samples, generator: torch.Generator) -> None:
        """The training-free method with the configured gamma, betas and alpha."""
        self.keys = nn.Parameter(support.features.clone())
        self.meta_net.reset(generator)
        # Where H differs from D, both sides must take the same random map to stay comparable.
        self.img2txt_net.load_state_dict(self.meta_net.state_dict())
        self.set_scalars(self.config.beta_image, self.config.beta_text, self.config.alpha, self.config.gamma)
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)

    @torch.no_grad()
    def set_scalars(self, beta_image: float, beta_text: float, alpha: float, gamma: float) -> None:
        """What validation searches: sharpness ``beta_image`` and ``beta_text``, weight ``alpha`` of the cache's scores,
        share ``gamma`` of the image stream."""
        self.log_beta_image.fill_(math.log(beta_image))
        self.log_beta_text.fill_(math.log(beta_text))
        self.log_alpha.fill_(math.log(alpha))
        self.gamma_logit.fill_(math.log(gamma / (1 - gamma)))

    def _loss(self, support: Samples, indices: Tensor) -> Tensor:
        features, labels = support.features[indices], support.labels[indices]
        hide = self.config.leave_one_out
        own = self._own_entries(indices) if hide else indices
        scores, disagreement = self._retrieve(features, self._cache(), own_entry=own, mask_own_scores=hide)
        logits = self._zero_shot_logits(features) + self.log_alpha.exp() * scores
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        if not self.config.hard_mining:
            return losses.mean()
        weights = hard_sample_weights(disagreement, self.config.hardness)
        return (weights * losses).sum() / weights.sum()

    def _logits(self, features: Tensor) -> Tensor:
        scores, _ = self._retrieve(features, self._cache())
        return self._zero_shot_logits(features) + self.log_alpha.exp() * scores

    def _configured(self, values: Mapping[str, float]) -> XMAdapterConfig:
        named = {"gamma" if name == "gamma_bias" else name: value for name, value in values.items()}
        return super()._configured(named)

    def _use(self, values: Mapping[str, float]) -> None:
        """Training moves them; what is settled was searched after it."""
        gamma = values["gamma" if self.gate is None else "gamma_bias"]
        self.set_scalars(values["beta_image"], values["beta_text"], values["alpha"], gamma)

    def streams(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Text queries ``g [B, H]`` and text keys ``G_T [C, H]``, both normalised."""
        text_queries = torch.nn.functional.normalize(self.img2txt_net(features), dim=-1)
        text_keys = torch.nn.functional.normalize(self.meta_net(self.text_features), dim=-1)
        return text_queries.to(features.dtype), text_keys.to(features.dtype)

    def gamma(self, features: Tensor, text_queries: Tensor | None = None) -> Tensor:
        """Share of the image cache: a scalar tensor, or ``[B]`` per sample, of ``text_queries [B, H]``."""
        if self.gate is None:
            return self.gamma_logit.sigmoid()
        if text_queries is None:
            text_queries, _ = self.streams(features)
        gate = self.gate(torch.cat([features, text_queries], dim=-1)).squeeze(-1).to(features.dtype)
        return (self.gamma_logit + gate).sigmoid()

    def _retrieve(
        self,
        features: Tensor,
        cache: PreparedCache,
        *,
        ratio: Tensor | float | None = None,
        beta_image: Tensor | float | None = None,
        beta_text: Tensor | float | None = None,
        own_entry: Tensor | None = None,
        mask_own_scores: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Class scores ``[B, classes of cache]`` and disagreement ``[B]``; what is not given is the adapter's own."""
        text_queries, text_keys = self.streams(features)
        ratio = self.gamma(features, text_queries) if ratio is None else ratio
        beta_image = self.log_beta_image.exp() if beta_image is None else beta_image
        beta_text = self.log_beta_text.exp() if beta_text is None else beta_text
        per_class = cache is self._cache() and self.entry_weights is None
        queries, keys = weighted(features, self.keys, self.entry_weights, beta_image)
        text_keys = text_keys if per_class else text_keys[self.labels]
        text_queries, text_keys = weighted(text_queries, text_keys, self.entry_weights, beta_text)
        hidden = own_entry if mask_own_scores else None
        queries, keys = self._hidden(queries, keys, hidden, beta_image)
        text_queries, text_keys = self._hidden(text_queries, text_keys, hidden, beta_text)
        return cache_retrieval(
            queries,
            keys,
            cache,
            beta_image,
            text_queries=text_queries,
            text_keys=text_keys,
            text_beta=beta_text,
            text_keys_per_class=per_class,
            ratio=ratio,
            standardize=self.config.standardize,
            own_entry=own_entry,
            mask_own_scores=mask_own_scores,
            return_disagreement=True,
        )

    def stream_scores(self, features: Tensor, *, image: bool, betas: Tensor) -> Tensor:
        """Class scores ``[G, B, C]`` of one stream alone, at each sharpness of ``betas [G]``."""
        if self.config.standardize:
            name, ratio = ("beta_image", 1.0) if image else ("beta_text", 0.0)
            each = [self._retrieve(features, self._cache(), ratio=ratio, **{name: beta}) for beta in betas.tolist()]
            return torch.stack([scores for scores, _ in each])
        if image:
            return self._scores_of(features, self.keys, betas)
        text_queries, text_keys = self.streams(features)
        if self.entry_weights is not None:
            return self._scores_of(text_queries, text_keys[self.labels], betas)
        scores = cache_retrieval_multi_beta(text_queries, text_keys, self._each_class(), betas)
        return scores * self._cache().counts()  # entries of a class share its key

    def _affinities(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        entries = self._each_entry()
        gamma = self.gamma(features)
        fused, _ = self._retrieve(features, entries)
        text, _ = self._retrieve(features, entries, ratio=0.0)
        text_share = 1 - (gamma if gamma.dim() == 0 else gamma.unsqueeze(-1))
        return fused, text_share * text

    def hyperparameters(self) -> dict[str, float]:
        values = {
            "beta_image": float(self.log_beta_image.detach().exp()),
            "beta_text": float(self.log_beta_text.detach().exp()),
            "alpha": float(self.log_alpha.detach().exp()),
        }
        # Per sample there is no single gamma; the gate's bias stands for a sample the gate says nothing about.
        values["gamma" if self.gate is None else "gamma_bias"] = float(self.gamma_logit.detach().sigmoid())
        return values


def hard_sample_weights(disagreement: Tensor, hardness: float) -> Tensor:
    """``1 + hardness * (delta - min) / (max - min)`` over the batch ``[B]``; no gradient, all 1 when delta is flat."""
    delta = disagreement.detach()
    span = delta.max() - delta.min()
    return 1 + hardness * (delta - delta.min()) / span.clamp(min=1e-12)
