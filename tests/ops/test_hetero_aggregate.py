"""The fused operator against its plain-PyTorch reference, and the reference against a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.draw import generator
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

    def __init__(
        self, shape: Any, dtype: torch.dtype = torch.float64, index: torch.dtype = torch.int64, seed: int = 0
    ) -> None:
        targets, sources, edges, width = shape
        source = generator(seed)
        self.generator = source
        shared = {n: torch.randn(n, width, generator=source, dtype=torch.float64).to(dtype) for n in sources}
        self.sources = [shared[n] for n in sources]
        self.unique = list(shared.values())
        self.relations, self.weights = [], []
        for n, e in zip(sources, edges, strict=True):
            rows = torch.randint(0, max(targets - 1, 1), (e,), generator=source)  # the last target has no edges
            columns = torch.randint(0, max(n, 1), (e,), generator=source).to(index)
            relation, permutation = Relation.from_edges(rows, columns, targets, n)
            self.relations.append(relation)
            weights = torch.randn(e, generator=source, dtype=torch.float64)
            self.weights.append(weights[permutation].to(dtype if dtype == torch.float64 else torch.float32))
        self.coefficients = torch.linspace(-1, 2, len(edges), dtype=self.weights[0].dtype)
        self.dense = [
            torch.randn(targets, n, generator=source, dtype=torch.float64).to(dtype) if e % 2 else relation
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
        grad = torch.randn(out.shape, generator=generator(1), dtype=out.dtype)
        grads = torch.autograd.grad((out * grad).sum(), leaves, allow_unused=True, materialize_grads=True)
        results.append([out, *grads])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("edges", [40, 137_000], ids=["read in place", "packed"])
def test_many_sources_equal_the_reference(edges: int) -> None:
    """So many that the kernel takes narrow slices of them."""
    graph = Graph((60, [34_000], [edges], 37))
    leaves = graph.requiring_grad()
    results = []
    for function in (hetero_aggregate, hetero_aggregate_reference):
        out = function(graph.sources, graph.relations, graph.weights, graph.coefficients)
        grad = torch.randn(out.shape, generator=generator(1), dtype=out.dtype)
        results.append([out, *torch.autograd.grad(out, leaves, grad)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(40, [30, 30], [400, 500], 130), (9, [600], [40], 200)], ids=str)
def test_error_is_at_most_twice_that_of_eager(dtype: torch.dtype, shape: Any) -> None:
    def draw(seed: int) -> Draw:
        graph = Graph(shape, dtype, seed=seed)

        def through(function: Any, **options: Any) -> Any:
            def out_of(coefficients: Tensor, source: Tensor, **weights: Tensor) -> dict[str, Tensor]:
                sources = [source] * len(graph.relations)  # all relations of these shapes share one
                out = function(sources, graph.relations, list(weights.values()), coefficients, **options)
                assert out.dtype == source.dtype
                return {"out": out}

            return out_of

        inputs = {"coefficients": graph.coefficients, "source": graph.unique[0]}
        inputs |= {f"weight_{r}": weight for r, weight in enumerate(graph.weights)}
        return draw_of(through(hetero_aggregate, route="sparse"), through(hetero_aggregate_reference), inputs, seed)

    assert_accurate(draw)


def test_index_types_may_be_mixed() -> None:
    wide, narrow = (Graph((40, [30, 20], [400, 500], 13), index=index) for index in (torch.int64, torch.int32))
    expected = hetero_aggregate(wide.sources, wide.relations, wide.weights)
    mixed = hetero_aggregate(wide.sources, [wide.relations[0], narrow.relations[1]], wide.weights)
    assert narrow.relations[1].columns.dtype == torch.int32 and torch.equal(mixed, expected)


@pytest.mark.parametrize("place", ["source", "weight"])
def test_nan_does_not_pass_silently(place: str) -> None:
    graph = Graph((40, [30], [400], 70), torch.float32)
    relation = graph.relations[0]
    target, column = relation.target_index()[5], relation.columns[5]
    if place == "source":
        graph.sources[0][column, 69] = float("nan")
        reading = relation.target_index()[relation.columns == column].unique()
    else:
        graph.weights[0][5] = float("nan")
        reading = target.unsqueeze(0)
    out = hetero_aggregate(graph.sources, graph.relations, graph.weights)
    assert out[reading, 69].isnan().all()
    others = torch.ones(40, dtype=torch.bool)
    others[reading] = False
    assert out[others].isfinite().all()


def test_targets_without_edges_are_zero_whatever_the_coefficient() -> None:
    graph = Graph((5, [7], [20], 13))
    out = hetero_aggregate(graph.sources, graph.relations, graph.weights, torch.tensor([float("inf")]).double())
    assert torch.equal(out[4], torch.zeros(13).double())


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_a_relation_and_its_transpose(index: torch.dtype) -> None:
    targets, columns = torch.tensor([2, 0, 2, 2, 0]), torch.tensor([1, 3, 1, 0, 3], dtype=index)
    relation, permutation = Relation.from_edges(targets, columns, 4, 5)
    assert (relation.num_targets, relation.num_sources, relation.num_edges) == (4, 5, 5)
    assert relation.row_offsets.tolist() == [0, 2, 2, 5, 5] and relation.columns.tolist() == [3, 3, 0, 1, 1]
    assert permutation.tolist() == [1, 4, 3, 0, 2]
    assert relation.target_index().tolist() == [0, 0, 2, 2, 2] and relation.row_counts().tolist() == [2, 0, 3, 0]
    torch.testing.assert_close(relation.shares(torch.float64), torch.tensor([1 / 2] * 2 + [1 / 3] * 3).double())
    offsets, rows, edges = relation.transpose()
    assert offsets.tolist() == [0, 1, 3, 3, 5, 5] and rows.tolist() == [2, 2, 2, 0, 0]
    assert edges.tolist() == [2, 3, 4, 0, 1] and rows.dtype == edges.dtype == index
    assert relation.transpose()[0] is offsets  # kept


def integers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


BAD_RELATIONS = [
    ((torch.tensor([0.0, 1]), integers(0), 1), "row_offsets must be an int32 or int64 vector but is float32"),
    ((integers(0, 1), integers(0).reshape(1, 1), 1), "columns must be an int32 or int64 vector but is int64"),
    ((integers(), integers(), 1), "row_offsets is int64 .* one element more"),
    ((integers(0, 2), integers(0), 1), "row_offsets runs from 0 to 2 but must rise from 0 to the 1 edges"),
    ((integers(0, 2, 1), integers(0), 1), "without falling"),
    ((integers(0, 1), integers(3), 3), r"columns hold 3 but must lie in \[0, 2\]"),
    ((integers(0, 1), integers(-1), 3), "columns hold -1"),
    ((integers(0), integers(), -2), "num_sources is -2"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_RELATIONS, ids=[m[:40] for _, m in BAD_RELATIONS])
def test_bad_relations_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Relation(*arguments)


def test_bad_edges_are_named() -> None:
    with pytest.raises(InputError, match=r"target_index holds values from 0 to 4 but must lie in \[0, 3\]"):
        Relation.from_edges(integers(0, 4), integers(0, 0), 4, 1)
    with pytest.raises(InputError, match="target_index has 2 elements but source_index has 1"):
        Relation.from_edges(integers(0, 4), integers(0), 5, 1)


ONE = Relation(integers(0, 2, 3), integers(0, 2, 1), 3)
BAD_CALLS = [
    ({"sources": []}, "sources, relations and weights have 0, 2 and 2 elements"),
    ({"sources": [], "relations": [], "weights": []}, "at least one relation"),
    ({"weights": [None]}, "have 2, 2 and 1 elements"),
    ({"sources": [torch.zeros(3, 4), torch.zeros(3, 5)]}, r"sources\[1\] is 5 wide but sources\[0\] is 4 wide"),
    ({"sources": [torch.zeros(3, 4), torch.zeros(5, 4)]}, r"sources\[1\] has 5 rows but relations\[1\] has 3 sources"),
    ({"relations": [ONE, torch.zeros(2, 5)]}, r"sources\[1\] has 3 rows but relations\[1\] has 5 sources"),
    ({"relations": [ONE, torch.zeros(4, 3)]}, r"relations\[1\] has 4 targets but relations\[0\] has 2"),
    ({"relations": [ONE, torch.zeros(2, 3)], "weights": [None, torch.zeros(6)]}, r"weights\[1\] must be None"),
    ({"weights": [torch.zeros(2), None]}, r"weights\[0\] is float32 \[2\] .* one floating-point number an edge, \[3\]"),
    ({"coefficients": torch.zeros(3)}, r"coefficients is float32 \[3\] .* \[2\]"),
    ({"output": "both"}, "output is 'both' and reduction is 'sum'"),
    ({"reduction": "max"}, "reduction is 'max'"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS, ids=[message[:40] for _, message in BAD_CALLS])
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"sources": [torch.zeros(3, 4)] * 2, "relations": [ONE, ONE]}
    with pytest.raises(InputError, match=message):
        hetero_aggregate(**(arguments | change))
