"""The fused operator against its plain-PyTorch reference, and the reference against a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import DTYPES, error_ratio
from vlmadapt.errors import InputError
from vlmadapt.ops import Relation, hetero_aggregate, hetero_aggregate_reference

# targets, sources of each relation, edges of each, width: one, odd, empty, several slices, direct and packed reading.
SHAPES = [
    (1, [1], [1], 1),
    (5, [7], [20], 13),
    (6, [4, 9], [30, 0], 64),
    (0, [3], [0], 8),
    (4, [0], [0], 8),
    (4, [3], [9], 0),
    (7, [5, 5, 8], [70, 3, 11], 65),
    (40, [30, 20], [400, 500], 130),
    (9, [600], [40], 200),
    (300, [50], [3000], 33),
]


class Graph:
    """Relations with repeated edges and targets without any; relations with as many sources share one source."""

    def __init__(self, shape: Any, dtype: torch.dtype = torch.float64, index: torch.dtype = torch.int64) -> None:
        targets, sources, edges, width = shape
        generator = torch.Generator().manual_seed(0)
        self.generator = generator
        shared = {n: torch.randn(n, width, generator=generator, dtype=torch.float64).to(dtype) for n in sources}
        self.sources = [shared[n] for n in sources]
        self.unique = list(shared.values())
        self.relations, self.weights = [], []
        for n, e in zip(sources, edges, strict=True):
            rows = torch.randint(0, max(targets - 1, 1), (e,), generator=generator)  # the last target has no edges
            columns = torch.randint(0, max(n, 1), (e,), generator=generator).to(index)
            relation, permutation = Relation.from_edges(rows, columns, targets, n)
            self.relations.append(relation)
            weights = torch.randn(e, generator=generator, dtype=torch.float64)
            self.weights.append(weights[permutation].to(dtype if dtype == torch.float64 else torch.float32))
        self.coefficients = torch.linspace(-1, 2, len(edges), dtype=self.weights[0].dtype)
        self.dense = [
            torch.randn(targets, n, generator=generator, dtype=torch.float64).to(dtype) if e % 2 else relation
            for n, e, relation in zip(sources, edges, self.relations, strict=True)
        ]

    def requiring_grad(self) -> list[Tensor]:
        leaves = [*self.unique, *self.weights, self.coefficients]
        leaves += [matrix for matrix in self.dense if isinstance(matrix, Tensor)]
        return [leaf.requires_grad_() for leaf in leaves]


def loop(graph: Graph, mean: bool) -> Tensor:
    """The formula, an edge at a time."""
    parts = []
    for r, relation in enumerate(graph.relations):
        out = torch.zeros(relation.num_targets, graph.sources[r].shape[1], dtype=torch.float64)
        for i in range(relation.num_targets):
            begin, end = int(relation.row_offsets[i]), int(relation.row_offsets[i + 1])
            for e in range(begin, end):
                share = 1 / (end - begin) if mean else 1
                out[i] += graph.coefficients[r] * share * graph.weights[r][e] * graph.sources[r][relation.columns[e]]
        parts.append(out)
    return torch.stack(parts)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_both_equal_a_loop(shape: Any, reduction: Any) -> None:
    graph = Graph(shape)
    expected = loop(graph, reduction == "mean")
    for function in (hetero_aggregate, hetero_aggregate_reference):
        arguments = (graph.sources, graph.relations, graph.weights, graph.coefficients)
        stacked = function(*arguments, output="stacked", reduction=reduction)
        torch.testing.assert_close(stacked, expected, rtol=0, atol=1e-10)
        fused = function(*arguments, reduction=reduction)
        torch.testing.assert_close(fused, expected.sum(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("output", ["fused", "stacked"])
@pytest.mark.parametrize("how", ["sparse", "some dense", "ones"])
def test_results_and_gradients_equal_the_reference(
    shape: Any, index: torch.dtype, reduction: Any, output: Any, how: str
) -> None:
    graph = Graph(shape, index=index)
    leaves = graph.requiring_grad()
    relations = graph.dense if how == "some dense" else graph.relations
    weights: list[Tensor | None] | None = None
    if how != "ones":
        weights = [
            None if isinstance(relation, Tensor) else weight
            for relation, weight in zip(relations, graph.weights, strict=True)
        ]
    results = []
    for function in (hetero_aggregate, hetero_aggregate_reference):
        out = function(graph.sources, relations, weights, graph.coefficients, output=output, reduction=reduction)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
        grads = torch.autograd.grad((out * grad).sum(), leaves, allow_unused=True, materialize_grads=True)
        results.append([out, *grads])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
