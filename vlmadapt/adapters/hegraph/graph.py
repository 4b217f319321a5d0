"""The graph of HeGraphAdapter (arXiv 2410.07854): three nodes a class, six relations of signed cosines.

    r_pn[i,j] = cos(n_i, p_j)  diagonal negated     positive text -> negative text
    r_vn[i,j] = cos(n_i, v_j)  diagonal negated     visual        -> negative text
    r_np[i,j] = cos(p_i, n_j)  diagonal negated     negative text -> positive text
    r_vp[i,j] = cos(p_i, v_j)  diagonal kept        visual        -> positive text
    r_pp[i,j] = cos(p_i, p_j)  diagonal zero        positive text -> positive text
    r_vv[i,j] = cos(v_i, v_j)  diagonal zero        visual        -> visual

    h_i = x_i / (d_i + 1) + sum_j r[i,j] / sqrt((d_i + 1) (e_j + 1)) x_j         message = act(h_i W^T)

``d_i`` is the sum of |r| over target i's row; ``e_j`` the one over source j's column, or over row j. Relations are
those of the frozen features, so that ``h`` of frozen sources is computed once: aggregation commutes with W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from vlmadapt.adapters.checks import normalize
from vlmadapt.ops import (
    Relation,
    hetero_aggregate,
    signed_cosine_aggregate,
    signed_cosine_degrees,
    signed_cosine_reference,
    signed_cosine_top_k,
)

Diagonal = Literal["keep", "negate", "zero"]
POSITIVE, NEGATIVE, VISUAL = "positive", "negative", "visual"
FORMS = ("auto", "dense", "factorised", "sparse", "none")
DEGREES = ("source", "target")
DIAGONALS = ("signed", "plain")
MOST_DENSE = 1024  # classes; beyond, the C x C matrices of six relations are not worth their memory


@dataclass(frozen=True)
class Kind:
    """A relation's ends and what becomes of its diagonal."""

    target: str
    source: str
    diagonal: Diagonal
    own_term: bool = True


KINDS: dict[str, Kind] = {
    "pn": Kind(NEGATIVE, POSITIVE, "negate"),
    "vn": Kind(NEGATIVE, VISUAL, "negate"),
    "np": Kind(POSITIVE, NEGATIVE, "negate"),
    "vp": Kind(POSITIVE, VISUAL, "keep"),
    "pp": Kind(POSITIVE, POSITIVE, "zero"),
    "vv": Kind(VISUAL, VISUAL, "zero", own_term=False),
}


@dataclass(frozen=True)
class GraphForm:
    """How relations are held and which of the documented readings they follow; see ``HeGraphAdapterConfig``."""

    form: str = "auto"
    top_k: int = 64
    degree: str = "source"
    diagonal: str = "signed"

    def resolved(self, classes: int) -> str:
        return self.form if self.form != "auto" else "dense" if classes <= MOST_DENSE else "factorised"

    def diagonal_of(self, kind: Kind) -> Diagonal:
        return "keep" if self.diagonal == "plain" and kind.diagonal == "negate" else kind.diagonal


class SignedRelation:
    """One relation with its normalised weights. ``row_degree`` and ``column_degree`` are sums of |r| ``[C]``.

    Forms: ``dense`` holds ``[C, C]``; ``sparse`` the ``top_k`` largest |r| of each row, and counts degrees over
    those; ``factorised`` holds nothing and is exact; ``none`` has no edge at all.
    """

    def __init__(self, targets: Tensor, sources: Tensor, diagonal: Diagonal, form: GraphForm):
        self.targets, self.sources, self.diagonal = targets, sources, diagonal
        self.form = form.resolved(len(targets))
        self.structure: Relation | Tensor | None = None
        self.weights: Tensor | None = None
        self.row_degree, self.column_degree = self._build(form.top_k)
        other = self.column_degree if form.degree == "source" else self.row_degree
        self.target_scale = (self.row_degree + 1).rsqrt()
        self.source_scale = (other + 1).rsqrt()
        self._scale()

    def _build(self, top_k: int) -> tuple[Tensor, Tensor]:
        ends = self.targets, self.sources
        if self.form == "factorised":
            return signed_cosine_degrees(*ends, diagonal=self.diagonal)
        if self.form == "dense":
            matrix = signed_cosine_reference(*ends, diagonal=self.diagonal)
            self.structure = matrix
            return matrix.abs().sum(1), matrix.abs().sum(0)
        zeros = self.targets.new_zeros(len(self.targets))
        if self.form == "none":
            return zeros, zeros
        edges, self.weights = signed_cosine_top_k(*ends, top_k, diagonal=self.diagonal)
        self.structure = edges
        size = self.weights.abs()
        return zeros.index_add(0, edges.target_index(), size), zeros.index_add(0, edges.columns.long(), size)

    def _scale(self) -> None:
        if isinstance(self.structure, Tensor):
            self.structure = self.target_scale[:, None] * self.structure * self.source_scale
        elif self.structure is not None and self.weights is not None:
            rows, columns = self.structure.target_index(), self.structure.columns.long()
            self.weights = self.target_scale[rows] * self.weights * self.source_scale[columns]

    def own(self, features: Tensor) -> Tensor:
        """A target's own term ``x_i / (d_i + 1)``: all of it where a node has no edge."""
        return features / (self.row_degree + 1).unsqueeze(-1)

    def aggregate(self, features: Tensor) -> Tensor:
        """``sum_j r[i,j] / sqrt(...) x_j`` of source features ``[C, D]``; differentiable in them."""
        if self.form == "none":
            return torch.zeros_like(features)
        if self.structure is None:
            return signed_cosine_aggregate(
                self.targets,
                self.sources,
                features,
                diagonal=self.diagonal,
                target_scale=self.target_scale,
                source_scale=self.source_scale,
            )
        return aggregate_each([self], [features])[0]


def aggregate_each(relations: Sequence[SignedRelation], features: Sequence[Tensor]) -> Tensor:
    """Aggregates ``[R, C, D]`` of several relations into one target type, in one call where edges are held."""
    if any(relation.structure is None for relation in relations):
        return torch.stack([relation.aggregate(x) for relation, x in zip(relations, features, strict=True)])
    structures = [cast("Relation | Tensor", relation.structure) for relation in relations]
    return hetero_aggregate(features, structures, [relation.weights for relation in relations], output="stacked")


class HeteroGraph:
    """The relations named, between frozen nodes ``{POSITIVE, NEGATIVE, VISUAL: [C, D]}``.

    ``inputs`` holds ``h [C, D]`` of every relation but ``np``, whose sources, the updated negative nodes, change.
    """

    def __init__(self, nodes: Mapping[str, Tensor], names: Sequence[str], form: GraphForm):
        self.nodes = dict(nodes)
        self.relations = {
            name: SignedRelation(nodes[kind.target], nodes[kind.source], form.diagonal_of(kind), form)
            for name, kind in KINDS.items()
            if name in names
        }
        self.inputs: dict[str, Tensor] = {}
        for target in (NEGATIVE, POSITIVE, VISUAL):
            group = [name for name in self.relations if KINDS[name].target == target and name != "np"]
            if group:
                sources = [nodes[KINDS[name].source] for name in group]
                sums = aggregate_each([self.relations[name] for name in group], sources)
                self.inputs |= {name: self._with_own(name, part) for name, part in zip(group, sums, strict=True)}

    def _with_own(self, name: str, aggregate: Tensor) -> Tensor:
        kind = KINDS[name]
        return aggregate + self.relations[name].own(self.nodes[kind.target]) if kind.own_term else aggregate

    def negative_input(self, negative: Tensor) -> Tensor:
        """``h [C, D]`` of relation ``np`` from the updated negative nodes."""
        return self._with_own("np", self.relations["np"].aggregate(negative))


def prototypes(features: Tensor, labels: Tensor, text_features: Tensor) -> Tensor:
    """Visual nodes ``[C, D]``: each class's mean image feature, normalised (ours).

    A class without pictures falls back to its text node, so that no row is missing or zero (ours).
    """
    classes = len(text_features)
    sums = torch.zeros_like(text_features).index_add(0, labels, features)
    counts = torch.bincount(labels, minlength=classes)
    # Opposite features cancel; a sum without direction is no better than no picture.
    usable = (counts > 0) & (torch.linalg.vector_norm(sums, dim=-1) > 1e-6 * counts)
    return torch.where(usable.unsqueeze(-1), normalize(torch.where(usable.unsqueeze(-1), sums, 1.0)), text_features)
