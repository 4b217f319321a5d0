"""What the graph of a fitted HeGraphAdapter holds: its strongest relations, and the classes negatives pull apart."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.hegraph.adapter import HeGraphAdapter
from vlmadapt.adapters.hegraph.graph import KINDS
from vlmadapt.errors import InputError
from vlmadapt.ops import signed_cosine_reference

MOST_CLASSES = 16  # more do not fit a picture that can be read
CLASSES_AT_ONCE = 1024
READABLE = ("pp", "vv", "vp", "pn", "vn", "np")  # relations, those that tell most about the classes first


@dataclass(frozen=True)
class Edge:
    """A relation from one class's source node to another's target node; ``weight`` is the signed cosine r."""

    relation: str
    source: int
    target: int
    weight: float

    @property
    def kinds(self) -> tuple[str, str]:
        """Node types of source and target."""
        return KINDS[self.relation].source, KINDS[self.relation].target


@dataclass(frozen=True)
class PulledPair:
    """Two classes and the centred cosine of their text nodes, without and with the negative nodes' message."""

    first: int
    second: int
    without: float
    with_negatives: float

    @property
    def change(self) -> float:
        return self.with_negatives - self.without


@dataclass(frozen=True)
class RelationMatrix:
    """``weights[i, j]``: r from the ``source`` node of class ``classes[j]`` to the ``target`` node of ``classes[i]``, 0
    of a class with itself, which is of another kind."""

    relation: str
    source: str
    target: str
    classes: Sequence[int]
    weights: Tensor


def load_graph(folder: str | Path) -> HeGraphAdapter:
    """The HeGraphAdapter saved in ``folder``; raises :class:`InputError` when it holds another adapter."""
    adapter = Adapter.load(folder)
    if not isinstance(adapter, HeGraphAdapter):
        raise InputError(f"{folder} holds a {adapter.name} adapter, which has no graph: fit with --adapter hegraph.")
    return adapter


def pick_classes(names: Sequence[str], wanted: Sequence[str] | None, pairs: Sequence[PulledPair] = ()) -> list[int]:
    """Class numbers of the names asked for; by default those of ``pairs``, in their order, up to ``MOST_CLASSES``.

    Raises :class:`InputError` for a name that is no class (with the nearest one), fewer than 2 or too many classes.
    """
    if wanted is None:
        ordered = [label for pair in pairs for label in (pair.first, pair.second)] + list(range(len(names)))
        return sorted(list(dict.fromkeys(ordered))[: min(len(names), 8)])
    chosen = []
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise InputError(f"there is no class {name!r}: {f'did you mean {near[0]!r}?' if near else 'see run.json.'}")
        chosen.append(list(names).index(name))
    chosen = list(dict.fromkeys(chosen))
    if not 2 <= len(chosen) <= MOST_CLASSES:
        raise InputError(f"--classes names {len(chosen)} classes: name 2 to {MOST_CLASSES}.")
    return chosen


def uses_negatives(adapter: HeGraphAdapter) -> bool:
    """Whether the message of the negative nodes reaches predictions: validation may have switched it off."""
    return "np" in used_relations(adapter)


def used_relations(adapter: HeGraphAdapter) -> set[str]:
    """The relations whose messages reach the fitted adapter's predictions: those of a coefficient that is not 0."""
    text_scale, negative_scale = adapter.scalars[3:5].tolist()
    unused = {"pn", "vn", "np"} if negative_scale == 0 else set()
    unused |= {"pp", "vp"} if text_scale == 0 else set()
    return set(adapter.graph.relations) - unused


def strongest_edges(adapter: HeGraphAdapter, classes: Sequence[int], top: int) -> list[Edge]:
    """The ``top`` relations of largest |r| between two of ``classes``, of each kind, and all within one class.

    Only those are listed that the classifier uses (:func:`used_relations`). Relations np are those of pn read
    backwards, so that only pn is listed; a pair of nodes is listed once.
    Raises :class:`InputError` for a ``top`` below 1.
    """
    if top < 1:
        raise InputError(f"top is {top}: ask for at least 1 relation of each kind.")
    rows = torch.tensor(list(classes))
    found = []
    used = used_relations(adapter)
    for name, kind in KINDS.items():
        if name not in used or (name == "np" and "pn" in used):
            continue
        nodes = adapter.graph.nodes
        diagonal = adapter.graph.relations[name].diagonal
        r = signed_cosine_reference(nodes[kind.target][rows], nodes[kind.source][rows], diagonal=diagonal)
        between = (r.triu(1) if kind.source == kind.target else r) * (1 - torch.eye(len(rows), dtype=r.dtype))
        order = between.abs().flatten().argsort(descending=True, stable=True)[:top].tolist()
        cells = [divmod(cell, len(rows)) for cell in order] + [(row, row) for row in range(len(rows))]
        found += [
            Edge(name, int(rows[source]), int(rows[target]), float(r[target, source]))
            for target, source in cells
            if float(r[target, source]) != 0.0 and (source != target or diagonal != "zero")
        ]
    return found


@torch.no_grad()
def relation_matrices(adapter: HeGraphAdapter, most: int) -> list[RelationMatrix]:
    """Every relation that the classifier uses, whole up to ``most`` classes, else of those most related to others.

    Classes are in an order that has related ones side by side (optimal leaves of average linkage of the strengths of
    the first relation listed). Relations np are those of pn read backwards, so that only pn is listed.
    """
    used = used_relations(adapter)
    names = [name for name in READABLE if name in used and not (name == "np" and "pn" in used)]
    if not names:
        return []
    chosen = _most_related(adapter, names[0], most)
    classes = chosen[_side_by_side(_weights(adapter, names[0], chosen))]
    return [
        RelationMatrix(name, KINDS[name].source, KINDS[name].target, classes.tolist(), _weights(adapter, name, classes))
        for name in names
    ]


def _weights(adapter: HeGraphAdapter, name: str, rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """r of the targets ``rows`` and the sources ``columns``, by default the same; what a class has with itself is 0."""
    nodes, kind = adapter.graph.nodes, KINDS[name]
    others = rows if columns is None else columns
    r = signed_cosine_reference(nodes[kind.target][rows], nodes[kind.source][others])
    return torch.where(rows[:, None] == others, torch.zeros_like(r), r).cpu()


def _most_related(adapter: HeGraphAdapter, name: str, most: int) -> Tensor:
    """Numbers of at most ``most`` classes, ascending: those with the largest |r| to another."""
    every = torch.arange(adapter.num_classes)
    if len(every) <= most:
        return every
    largest = [_weights(adapter, name, rows, every).abs().amax(1) for rows in every.split(CLASSES_AT_ONCE)]
    return torch.cat(largest).topk(most).indices.sort().values


def _side_by_side(weights: Tensor) -> Tensor:
    """An order of the rows of a square matrix of strengths in which strong pairs are near."""
    if len(weights) < 3:
        return torch.arange(len(weights))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    strength = (weights + weights.T).double() / 2
    distance = (strength.max() - strength).fill_diagonal_(0).clamp(min=0)
    tree = linkage(squareform(distance.numpy(), checks=False), "average", optimal_ordering=True)
    return torch.from_numpy(leaves_list(tree)).long()


@torch.no_grad()
def pulled_apart(adapter: HeGraphAdapter, top: int) -> list[PulledPair]:
    """The ``top`` pairs of classes whose text nodes' centred cosine falls most by the message of the negative nodes.

    The message counts as much as in the classifier: none is listed without text or where validation switched it off,
    nor a pair whose cosine does not fall. Nodes are normalised and centred on their mean over the classes first: what
    moves all classes alike tells none from another. Raises :class:`InputError` when the adapter was fitted without that
    message. Rows of the class-by-class cosines are compared a tile at a time.
    """
    if top < 1:
        raise InputError(f"top is {top}: ask for at least 1 pair.")
    if not adapter.has_text:
        return []
    updates = adapter.updates()
    text_scale, negative_scale = adapter.scalars[3:5].tolist()
    if updates.negative is None:
        raise InputError("this adapter was fitted without messages of negative nodes: set negative_to_positive.")
    if not uses_negatives(adapter):
        return []
    before = _centred(adapter.adapted_text(updates, text_scale, 0.0))
    after = _centred(adapter.adapted_text(updates, text_scale, negative_scale))
    pairs: list[PulledPair] = []
    for start in range(0, len(before), CLASSES_AT_ONCE):
        pairs += _most_changed(before, after, start, top)
    return sorted(pairs, key=lambda pair: (pair.change, pair.first, pair.second))[:top]


def _centred(nodes: Tensor) -> Tensor:
    unit = normalize(nodes, dim=-1)
    return normalize(unit - unit.mean(0), dim=-1)


def _most_changed(before: Tensor, after: Tensor, start: int, top: int) -> list[PulledPair]:
    rows = slice(start, start + CLASSES_AT_ONCE)
    old, new = before[rows] @ before.T, after[rows] @ after.T
    upper = torch.ones_like(old, dtype=torch.bool).triu(start + 1)
    change = torch.where(upper, new - old, torch.inf).flatten()
    cells = change.argsort(stable=True)[: min(top, int(upper.sum()))].tolist()
    found = []
    for cell in cells:
        row, column = divmod(cell, len(before))
        found.append(PulledPair(start + row, column, float(old[row, column]), float(new[row, column])))
    return [pair for pair in found if pair.change < 0]
