"""The fused operator against its plain-PyTorch reference, and the reference against a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.cases import generator
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

        def through(function: Any) -> Any:
            def out_of(coefficients: Tensor, source: Tensor, **weights: Tensor) -> dict[str, Tensor]:
                sources = [source] * len(graph.relations)  # all relations of these shapes share one
                out = function(sources, graph.relations, list(weights.values()), coefficients)
                assert out.dtype == source.dtype
                return {"out": out}

            return out_of

        inputs = {"coefficients": graph.coefficients, "source": graph.unique[0]}
        inputs |= {f"weight_{r}": weight for r, weight in enumerate(graph.weights)}
        return draw_of(through(hetero_aggregate), through(hetero_aggregate_reference), inputs, seed)

    assert_accurate(draw)


@pytest.mark.parametrize("output", ["fused", "stacked"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradcheck(output: Any, reduction: Any) -> None:
    graph = Graph((4, [5, 3, 5], [9, 4, 7], 3))
    leaves = graph.requiring_grad()
    count = len(graph.unique)

    def function(*leaves: Tensor) -> Tensor:
        sources = [leaves[0], leaves[1], leaves[0]]
        weights = [leaves[count], None, leaves[count + 2]]
        relations: list[Any] = [graph.relations[0], leaves[count + 4], graph.relations[2]]
        return hetero_aggregate(sources, relations, weights, leaves[count + 3], output=output, reduction=reduction)

    dense = torch.randn(4, 3, generator=graph.generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(function, [*leaves[: count + 4], dense])


def raw_arguments(graph: Graph, stacked: bool = False) -> tuple[Any, ...]:
    source_of = [next(u for u, x in enumerate(graph.unique) if x is source) for source in graph.sources]
    relations = graph.relations
    transposes = [list(part) for part in zip(*(relation.transpose() for relation in relations), strict=True)]
    offsets, columns = [relation.row_offsets for relation in relations], [relation.columns for relation in relations]
    return (graph.unique, source_of, offsets, columns, graph.weights, graph.coefficients, stacked, *transposes)


@pytest.mark.parametrize("stacked", [False, True])
def test_opcheck(stacked: bool) -> None:
    graph = Graph((4, [5, 3, 5], [9, 4, 7], 3), torch.float32)
    for leaf in (*graph.unique, *graph.weights, graph.coefficients):
        leaf.requires_grad_()
    torch.library.opcheck(torch.ops.vlmadapt.hetero_aggregate.default, raw_arguments(graph, stacked))


def test_opcheck_of_the_helpers() -> None:
    graph = Graph((4, [5, 3, 5], [9, 4, 7], 3), torch.float32)
    sources, source_of, offsets, columns, weights, coefficients, stacked, *transposes = raw_arguments(graph)
    torch.library.opcheck(torch.ops.vlmadapt.transpose_relation.default, (offsets[0], columns[0], 5))
    arguments = (torch.randn(4, 3), sources, source_of, weights, coefficients, stacked, *transposes)
    for wants in (([1, 1], [1, 1, 1], True), ([0, 1], [0, 0, 1], False)):
        torch.library.opcheck(
            torch.ops.vlmadapt.hetero_aggregate_backward.default,
            (*arguments, *wants),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("output", ["fused", "stacked"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_compiles_into_one_graph(output: Any, reduction: Any) -> None:
    graph = Graph((4, [5, 3, 5], [9, 4, 7], 3), torch.float32)
    leaves = graph.requiring_grad()
    relations = [graph.relations[0], graph.dense[0], graph.relations[2]]

    def function(x: Tensor, weight: Tensor, coefficients: Tensor) -> Tensor:
        out = hetero_aggregate(
            [x, x, x], relations, [weight, None, None], coefficients, output=output, reduction=reduction
        )
        return (out * 2).tanh()

    inputs = [leaves[0], graph.weights[0], graph.coefficients]
    expected = function(*inputs)
    grads = torch.autograd.grad(expected.sum(), inputs)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), inputs), grads)


def test_autocast_computes_in_float32() -> None:
    graph = Graph((40, [30, 20], [401, 500], 130), torch.float32)
    weights = [None, graph.weights[1]]
    expected = hetero_aggregate(graph.sources, graph.dense, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hetero_aggregate(graph.sources, graph.dense, weights), expected)
        half = [source.bfloat16() for source in graph.sources]
        mixed = hetero_aggregate(half, graph.relations, graph.weights)
    assert mixed.dtype == torch.float32
    exact = hetero_aggregate([source.float() for source in half], graph.relations, graph.weights)
    assert torch.equal(mixed, exact)


def test_results_are_bit_identical_at_every_thread_count() -> None:
    graph = Graph((700, [900, 900, 50], [40000, 3000, 10], 70), torch.float32)
    leaves = [leaf.requires_grad_() for leaf in (*graph.unique, *graph.weights, graph.coefficients)]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, threads, threads):
            torch.set_num_threads(count)
            out = hetero_aggregate(graph.sources, graph.relations, graph.weights, graph.coefficients)
            results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_non_contiguous_inputs() -> None:
    graph = Graph((40, [30, 20], [400, 500], 130))
    expected = hetero_aggregate(graph.sources, graph.relations, graph.weights, graph.coefficients)
    strided = hetero_aggregate(
        [source.T.contiguous().T for source in graph.sources],
        [Relation(r.row_offsets.repeat_interleave(2)[::2], r.columns, r.num_sources) for r in graph.relations],
        [torch.stack([weight, weight], -1)[:, 0] for weight in graph.weights],
        torch.stack([graph.coefficients] * 2, -1)[:, 0],
    )
    assert torch.equal(strided, expected)
    x = graph.sources[0].requires_grad_()
    out = hetero_aggregate(graph.sources, graph.relations, graph.weights)
    grad = torch.randn(130, 40, dtype=torch.float64).T
    from_strided = torch.autograd.grad(out, x, grad, retain_graph=True)[0]
    assert torch.equal(from_strided, torch.autograd.grad(out, x, grad.contiguous())[0])


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


def test_second_derivative_is_refused() -> None:
    graph = Graph((5, [7], [20], 13))
    x = graph.sources[0].requires_grad_()
    weight = graph.weights[0].requires_grad_()
    grad = torch.autograd.grad(hetero_aggregate([x], graph.relations, [weight]).sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()


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
    ({"sources": [torch.zeros(3, 4), torch.zeros(3, 4).double()]}, r"sources\[1\] is float64"),
    ({"sources": [torch.zeros(3), torch.zeros(3, 4)]}, r"sources\[0\] must be a .* matrix"),
    ({"sources": [torch.zeros(3, 4), torch.zeros(5, 4)]}, r"sources\[1\] has 5 rows but relations\[1\] has 3 sources"),
    ({"relations": [ONE, torch.zeros(2, 5)]}, r"sources\[1\] has 3 rows but relations\[1\] has 5 sources"),
    ({"relations": [ONE, torch.zeros(4, 3)]}, r"relations\[1\] has 4 targets but relations\[0\] has 2"),
    ({"relations": [ONE, torch.zeros(2)]}, r"relations\[1\] must be a .* matrix"),
    ({"relations": [ONE, torch.zeros(2, 3).double()]}, r"relations\[1\] is float64"),
    ({"relations": [ONE, torch.zeros(2, 3)], "weights": [None, torch.zeros(6)]}, r"weights\[1\] must be None"),
    ({"weights": [torch.zeros(2), None]}, r"weights\[0\] is float32 \[2\] .* one floating-point number an edge, \[3\]"),
    ({"weights": [integers(1, 2, 3), None]}, r"weights\[0\] is int64"),
    ({"coefficients": torch.zeros(3)}, r"coefficients is float32 \[3\] .* \[2\]"),
    ({"coefficients": integers(1, 2)}, "coefficients is int64"),
    ({"output": "both"}, "output is 'both' and reduction is 'sum'"),
    ({"reduction": "max"}, "reduction is 'max'"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS, ids=[message[:40] for _, message in BAD_CALLS])
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"sources": [torch.zeros(3, 4)] * 2, "relations": [ONE, ONE]}
    with pytest.raises(InputError, match=message):
        hetero_aggregate(**(arguments | change))
