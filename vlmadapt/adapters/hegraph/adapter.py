"""HeGraphAdapter: messages between positive text, negative text and visual nodes; arXiv 2410.07854.

    m_st = act( (x_i / (d_i + 1) + sum_j r[i,j] / sqrt((d_i + 1)(e_j + 1)) x_j) W_t^T )     source s, target t
    N'   = N + 0.5 m_pn + 0.5 m_vn
    P'   = P + 0.06 m_pp + 0.24 m_vp + a_np m_np          (m_np reads N'; a_np = 0.2 in training, 0.1 after it)
    u    = act( (sum_j r_vv[i,j] / sqrt(...) v_j) W_v^T )                                   no own term
    x'_k = x_k + g u_{y_k}                                every cached feature gets the bias of its class, g = 0.5
    L_text = tau cos(z, P'_c)        S_c = sum over the cache entries k of class c of exp(-beta (1 - cos(z, x'_k)))
    loss   = CE(L_text) + lambda CE(tau_v S), lambda = 0.1
    probability fusion: (softmax(L_text) + w softmax(tau_v S)) / (1 + w)         logit fusion: L_text + alpha S

The structure is the paper's; the relations (:mod:`vlmadapt.adapters.hegraph.graph`), coefficients and update order
are those of a public re-implementation, which has beta = 1 and the probability fusion. Ours: degrees of sources taken
from their own side, the logit fusion and the search of beta, fusion and coefficients on validation, leave-one-out
training, and the start at W = 0, where every message is zero and the method is zero-shot plus an untrained cache.
Only W_n, W_p and W_v are trained. Without text (ours) the visual nodes are all there is: L_text is zero, the loss is
its second term, and W_v alone is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.cache import CacheAdapter
from vlmadapt.adapters.hegraph.config import HeGraphAdapterConfig
from vlmadapt.adapters.hegraph.graph import NEGATIVE, POSITIVE, VISUAL, HeteroGraph, prototypes
from vlmadapt.adapters.hegraph.negatives import negative_features_of
from vlmadapt.adapters.hegraph.search import Fusion, best_likelihood, search
from vlmadapt.adapters.trained import TrainedAdapter
from vlmadapt.training import ParameterGroup, Samples
from vlmadapt.training.layers import empty_linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "none": lambda x: x,
}


@dataclass(frozen=True)
class Updates:
    """What messages add, each ``[C, D]``: ``fixed`` and ``negative`` to the positive nodes, ``bias`` to the cache.

    ``fixed`` is the weighted sum of m_pp and m_vp, ``negative`` is m_np without its coefficient; None without edges.
    """

    fixed: Tensor | None
    negative: Tensor | None
    bias: Tensor | None


class HeGraphAdapter(CacheAdapter, TrainedAdapter):
    """A class without samples has its text node for a visual node and no entry in the cache; without text it is alone.

    negative_text_features: ``[C, D]``, text features of the negative prompts. Without them they are encoded from "a
        photo of no {class}." where ``encoder`` and ``class_names`` are given, else :class:`InputError`. None
        without text.
    """

    name = "hegraph"
    config_class = HeGraphAdapterConfig
    needs_text = False
    needs_negatives = True
    numbers = ("scalars",)
    negative_text_features: Tensor
    visual_nodes: Tensor
    text_nodes: Tensor
    support_features: Tensor
    scalars: Tensor

    def __init__(self, *args: Any, negative_text_features: Tensor | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        negative = negative_features_of(self, negative_text_features, named=kwargs.get("class_names") is not None)
        self.register_buffer("negative_text_features", negative)
        for name in ("visual_nodes", "text_nodes", "keys"):
            self.register_buffer(name, None)
        self.register_buffer("support_features", None, persistent=False)
        dtype = self.text_features.dtype
        self.to_negative, self.to_positive, self.to_visual = (
            empty_linear(self.width, self.width, dtype, bias=False) for _ in range(3)
        )
        for layer in (self.to_negative, self.to_positive):
            layer.requires_grad_(self.has_text)
        self.register_buffer("scalars", torch.zeros(5, dtype=torch.float64))
        self._graph: HeteroGraph | None = None
        self._use_defaults()

    @property
    def graph(self) -> HeteroGraph:
        """The relations between the nodes the adapter was fitted with; built at the first use."""
        if self._graph is None or self._graph.nodes[POSITIVE] is not self.text_features:
            nodes = {
                POSITIVE: self.text_features,
                NEGATIVE: self.negative_text_features,
                VISUAL: self.visual_nodes,
            }
            self._graph = HeteroGraph(nodes, self._relations(), self.config.graph_form)
        return self._graph

    def _relations(self) -> tuple[str, ...]:
        """Those of the configuration, between nodes that are there."""
        return tuple(name for name in self.config.relations if self.has_text or name == "vv")

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        self._remember(support)
        self.support_features = support.features
        self.visual_nodes = prototypes(support.features, support.labels, self.text_features)
        self._graph = None
        for layer in (self.to_negative, self.to_positive, self.to_visual):
            nn.init.zeros_(layer.weight)
        self._use_defaults()
        groups = [ParameterGroup(("to_visual",), lr=self.config.visual_lr)]
        if set(self._relations()) - ({"vv"} if self.config.visual_loss == 0 else set()):
            self._train(support, validation, options, groups)
        self._refresh()
        if validation is not None:
            self._search_widely(lambda: search(self, validation))
            self._refresh()
        self.support_features = None  # type: ignore[assignment]

    def _use_defaults(self) -> None:
        config = self.config
        probability = config.fusion != "logit"
        fusion = Fusion(probability, config.beta, config.w if probability else config.alpha)
        self.set_scalars(fusion, 1.0, config.negative_to_positive_test)

    @torch.no_grad()
    def set_scalars(self, fusion: Fusion, text_scale: float, negative_scale: float) -> None:
        """What validation searches: ``fusion`` of the two scores; ``text_scale`` multiplies the messages m_pp and m_vp,
        ``negative_scale`` is a_np."""
        values = [float(fusion.probability), fusion.beta, fusion.weight, text_scale, negative_scale]
        self.scalars.copy_(torch.tensor(values, dtype=torch.float64))

    @property
    def fusion(self) -> Fusion:
        """How the two scores are joined, now."""
        probability, beta, weight = self.scalars[:3].tolist()
        return Fusion(bool(probability), beta, weight)

    def updates(self) -> Updates:
        """The messages of the weights as they are; differentiable in them."""
        config, graph = self.config, self.graph

        def messages(layer: nn.Linear, inputs: list[Tensor]) -> Tensor:
            # In one product, and one gradient of the weights: those are as large as the classes are few.
            return ACTIVATIONS[config.activation](layer(torch.stack(inputs)))

        def known(coefficients: dict[str, float]) -> tuple[list[Tensor], list[float]]:
            used = [name for name in coefficients if name in graph.inputs]
            return [graph.inputs[name] for name in used], [coefficients[name] for name in used]

        def total(layer: nn.Linear, coefficients: dict[str, float]) -> Tensor | None:
            inputs, weights = known(coefficients)
            return _weighed(weights, messages(layer, inputs)) if inputs else None

        inputs, weights = known({"pp": config.positive_to_positive, "vp": config.visual_to_positive})
        if "np" in graph.relations:
            moved = total(self.to_negative, {"pn": config.positive_to_negative, "vn": config.visual_to_negative})
            nodes = self.negative_text_features if moved is None else self.negative_text_features + moved
            inputs.append(graph.negative_input(nodes))
        fixed = negative = None
        if inputs:
            to_positive = messages(self.to_positive, inputs)
            fixed = _weighed(weights, to_positive[: len(weights)]) if weights else None
            negative = to_positive[-1] if "np" in graph.relations else None
        return Updates(fixed, negative, total(self.to_visual, {"vv": 1.0}))

    def adapted_text(self, updates: Updates, text_scale: float, negative_scale: float) -> Tensor:
        """Positive nodes ``P' [C, D]`` of ``updates``, not normalised; ``text_scale`` and ``negative_scale`` as in
        :meth:`set_scalars`."""
        nodes = self.text_features
        if updates.fixed is not None:
            nodes = nodes + text_scale * updates.fixed
        if updates.negative is not None:
            nodes = nodes + negative_scale * updates.negative
        return nodes

    def adapted_keys(self, updates: Updates) -> Tensor:
        """Cached features with their class's bias in ``updates``: ``x' [n, D]``, normalised."""
        if updates.bias is None:
            return self.support_features
        return normalize(self.support_features + self.config.visual_bias * updates.bias[self.labels], dim=-1)

    def text_logits(self, features: Tensor, nodes: Tensor) -> Tensor:
        """``tau cos(z, P')``: normalised features ``[B, D]``, nodes ``[C, D]`` -> ``[B, C]``."""
        return self.logit_scale * features @ normalize(nodes, dim=-1).T

    @property
    def visual_scale(self) -> float:
        """Temperature tau_v of the visual classifier."""
        return self.logit_scale if self.config.visual_scale is None else self.config.visual_scale

    @torch.no_grad()
    def _refresh(self) -> None:
        """Nodes and keys of the weights as they are: all that predictions need."""
        updates = self.updates()
        nodes = self.adapted_text(updates, float(self.scalars[3]), float(self.scalars[4]))
        self.text_nodes = nodes.clone()  # without messages they are the text features, and files hold no tensor twice
        if self.support_features is not None:
            self.keys = self.adapted_keys(updates)

    def _loss(self, support: Samples, indices: Tensor) -> Tensor:
        config = self.config
        features, labels = support.features[indices], support.labels[indices]
        updates = self.updates()
        text = self.text_logits(features, self.adapted_text(updates, 1.0, config.negative_to_positive))
        loss = cross_entropy(text, labels)
        if updates.bias is None or config.visual_loss == 0:
            return loss  # without text this is a constant
        keys = self.adapted_keys(updates).to(features.dtype)
        own = self._own_entries(indices) if config.leave_one_out else None
        scores = self._scores(features, keys, config.beta, own)
        return loss + config.visual_loss * cross_entropy(self.visual_scale * scores, labels)

    @torch.no_grad()
    def _score(self, samples: Samples) -> tuple[float, ...]:
        self._refresh()
        return best_likelihood(self, samples)

    def _logits(self, features: Tensor) -> Tensor:
        fusion = self.fusion
        scores = self._scores(features, self.keys, fusion.beta)
        return fusion.of(self.text_logits(features, self.text_nodes), scores, self.visual_scale)

    def _affinities(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._entry_scores(features, self.fusion.beta), None

    def _configured(self, values: Mapping[str, float]) -> HeGraphAdapterConfig:
        return self.config  # all of them are searched after training

    def _use(self, values: Mapping[str, float]) -> None:
        probability = "w" in values
        fusion = Fusion(probability, values["beta"], values["w" if probability else "alpha"])
        self.set_scalars(fusion, values["text_scale"], values["negative_to_positive"])
        self._refresh()

    def _more_inputs(self) -> dict[str, Tensor]:
        return {"negative_text_features": self.negative_text_features}

    def hyperparameters(self) -> dict[str, float]:
        fusion = self.fusion
        return {
            "beta": fusion.beta,
            "w" if fusion.probability else "alpha": fusion.weight,
            "text_scale": float(self.scalars[3]),
            "negative_to_positive": float(self.scalars[4]),
        }


def _weighed(weights: Sequence[float], messages: Tensor) -> Tensor:
    """The sum of ``messages [R, C, D]`` of R relations, each by its weight."""
    return torch.tensordot(messages.new_tensor(weights), messages, dims=1)
