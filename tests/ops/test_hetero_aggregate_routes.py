"""The dense route of hetero_aggregate: the same results, and taken where it is meant to be."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo import lookup_backend
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.calls import identical_at_thread_counts
from tests.ops.draw import DTYPES, generator
from tests.ops.test_hetero_aggregate import SHAPES, Graph
from vlmadapt.errors import InputError
from vlmadapt.ops import Relation, hetero_aggregate, hetero_aggregate_reference
from vlmadapt.ops.hetero_aggregate import route as routes


class Operators(TorchDispatchMode):
    """How often each operator ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.partition("::")[2])
        return func(*args, **(kwargs or {}))

    def products(self) -> int:
        return sum(name in ("mm", "addmm") for name in self.names)


def edges(targets: int, sources: int, each: int, seed: int = 0) -> Relation:
    """As many columns a row, none twice."""
    columns = torch.rand(targets, sources, generator=generator(seed)).argsort(1)[:, :each].sort(1)[0]
    return Relation(torch.arange(targets + 1) * each, columns.reshape(-1), sources)


def rising_graph(grad: bool = False) -> dict[str, Any]:
    """Three relations, two of which read one source."""
    sources = [torch.randn(7, 5, generator=generator(n)).double().requires_grad_(grad) for n in (1, 2)]
    relations = [edges(6, 7, each, seed) for seed, each in enumerate((3, 5, 4))]
    weights = [torch.randn(r.num_edges, generator=generator(3)).double().requires_grad_(grad) for r in relations]
    coefficients = torch.tensor([0.5, -2, 3]).double().requires_grad_(grad)
    return {
        "sources": [*sources, sources[0]],
        "relations": relations,
        "weights": weights,
        "coefficients": coefficients,
    }


def leaves_of(arguments: dict[str, Any]) -> list[Tensor]:
    return [*arguments["sources"][:2], *arguments["weights"], arguments["coefficients"]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("output", ["fused", "stacked"])
@pytest.mark.parametrize("how", ["weights", "some dense", "ones"])
def test_both_routes_give_the_same(shape: Any, reduction: Any, output: Any, how: str) -> None:
    """Repeated edges included."""
    graph = Graph(shape)
    leaves = graph.requiring_grad()
    relations = graph.dense if how == "some dense" else graph.relations
    weights: list[Tensor | None] | None = None
    if how != "ones":
        pairs = zip(relations, graph.weights, strict=True)
        weights = [None if isinstance(relation, Tensor) else weight for relation, weight in pairs]
    results = []
    for route in ("sparse", "dense"):
        out = hetero_aggregate(
            graph.sources, relations, weights, graph.coefficients, output=output, reduction=reduction, route=route
        )
        grad = torch.randn(out.shape, generator=generator(1), dtype=out.dtype)
        results.append([out, *torch.autograd.grad(out, leaves, grad, allow_unused=True, materialize_grads=True)])
    for dense, sparse in zip(*results, strict=True):
        torch.testing.assert_close(dense, sparse, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(40, [30, 30], [400, 500], 130), (9, [600], [40], 200)], ids=str)
def test_error_is_at_most_twice_that_of_plain_products(dtype: torch.dtype, shape: Any) -> None:
    """Whose sums are longer chains than those of gathered rows."""

    def draw(seed: int) -> Draw:
        graph = Graph(shape, dtype, seed=seed)

        def ours(coefficients: Tensor, source: Tensor, **weights: Tensor) -> dict[str, Tensor]:
            sources = [source] * len(graph.relations)
            out = hetero_aggregate(sources, graph.relations, list(weights.values()), coefficients, route="dense")
            assert out.dtype == source.dtype
            return {"out": out}

        def plain(coefficients: Tensor, source: Tensor, **weights: Tensor) -> dict[str, Tensor]:
            pairs = zip(graph.relations, weights.values(), strict=True)
            matrices = [matrix_of(relation, weight).to(source.dtype) for relation, weight in pairs]
            return {"out": sum(c * matrix @ source for c, matrix in zip(coefficients, matrices, strict=True))}

        inputs = {"coefficients": graph.coefficients, "source": graph.unique[0]}
        inputs |= {f"weight_{r}": weight for r, weight in enumerate(graph.weights)}
        return draw_of(ours, plain, inputs, seed)

    assert_accurate(draw)


def matrix_of(relation: Relation, weight: Tensor) -> Tensor:
    empty = weight.new_zeros(relation.num_targets, relation.num_sources)
    return empty.index_put((relation.target_index(), relation.columns.long()), weight, accumulate=True)


def test_gradients_of_all_inputs() -> None:
    arguments = rising_graph(grad=True)

    def function(first: Tensor, second: Tensor, *rest: Tensor) -> Tensor:
        given = {"sources": [first, second, first], "weights": list(rest[:3]), "coefficients": rest[3]}
        return hetero_aggregate(**(arguments | given), route="dense")

    assert torch.autograd.gradcheck(function, leaves_of(arguments))
    assert torch.autograd.gradgradcheck(function, leaves_of(arguments))


class Graphs:
    """A backend of torch.compile that notes the names of the operators that it is given."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: Any) -> Any:
        self.names += [str(node.target) for node in module.graph.nodes if node.op.startswith("call")]
        return lookup_backend("aot_eager")(module, inputs)


@pytest.mark.parametrize("grad", [False, True], ids=["frozen", "trained"])
def test_compiles_into_one_graph(grad: bool) -> None:
    arguments = rising_graph(grad)

    def function(sources: list[Tensor], weights: list[Tensor], coefficients: Tensor) -> Tensor:
        return hetero_aggregate(sources, arguments["relations"], weights, coefficients, route="dense")

    given = [arguments[name] for name in ("sources", "weights", "coefficients")]
    expected, graphs = function(*given), Graphs()
    compiled = torch.compile(function, fullgraph=True, backend=graphs)
    found = compiled(*given)
    assert not any("hetero_aggregate" in name for name in graphs.names)
    torch.testing.assert_close(found, expected)
    if grad:
        leaves, upstream = leaves_of(arguments), torch.ones_like(expected)
        wanted = torch.autograd.grad(expected, leaves, upstream)
        torch.testing.assert_close(torch.autograd.grad(found, leaves, upstream), wanted)
    for weight in arguments["weights"]:
        weight.data.mul_(2)  # what no count of changes shows: a compiled function reads the weights at every call
    torch.testing.assert_close(compiled(*given), 2 * expected)


def test_repeated_edges_keep_to_the_kernel_under_compile() -> None:
    """Torch's compiler adds with atomics, in any order."""
    graph = Graph((6, [9], [30], 8))
    assert not graph.relations[0].rising

    def function(source: Tensor) -> Tensor:
        return hetero_aggregate([source], graph.relations, graph.weights, route="dense")

    graphs = Graphs()
    found = torch.compile(function, fullgraph=True, backend=graphs)(graph.sources[0])
    assert any("hetero_aggregate" in name for name in graphs.names)
    torch.testing.assert_close(found, function(graph.sources[0]))


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_the_same_at_every_number_of_threads(trained: bool) -> None:
    """But for rounding: the products are torch's. The matrix is the same to the bit, repeated edges too."""
    graph = Graph((300, [250], [60_000], 33), torch.float32)
    weights = graph.weights[0].requires_grad_(trained)

    def matrix() -> list[Tensor]:
        graph.relations[0].forget()
        return [graph.relations[0].matrix(weights, torch.float32).detach()]

    def result() -> list[Tensor]:
        return [hetero_aggregate(graph.sources, graph.relations, [weights], route="dense").detach()]

    assert not graph.relations[0].rising
    identical_at_thread_counts(matrix, lambda x, y: torch.testing.assert_close(x, y, rtol=0, atol=0))
    identical_at_thread_counts(result, lambda x, y: torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-4))


def test_autocast_computes_in_float32() -> None:
    graph = Graph((40, [30], [400], 70), torch.float32)

    def call(sources: list[Tensor]) -> Tensor:
        return hetero_aggregate(sources, graph.relations, graph.weights, route="dense")

    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        found = call(graph.sources)
    assert found.dtype == torch.float32 and torch.equal(found, call(graph.sources))


# The matrix that is kept.


def call(relation: Relation, source: Tensor, weight: Tensor | None, **options: Any) -> Tensor:
    return hetero_aggregate([source], [relation], [weight], route="dense", **options)


@pytest.fixture
def one() -> tuple[Relation, Tensor, Tensor]:
    relation = edges(6, 7, 3)
    return relation, torch.randn(7, 5, generator=generator(1)), torch.randn(18, generator=generator(2))


def test_the_matrix_of_frozen_weights_is_made_once(one: Any) -> None:
    relation, source, weight = one
    for made in (True, False, False):
        with Operators() as ran:
            call(relation, source, weight)
        assert ("scatter" in ran.names) == made and ran.products() == 1
    relation.forget()
    with Operators() as ran:
        call(relation, source, weight)
    assert "scatter" in ran.names


@pytest.mark.parametrize("change", ["in place", "another", "none", "mean", "a type", "grad"])
def test_another_matrix_is_made_where_anything_changed(one: Any, change: str) -> None:
    relation, source, weight = one
    options: dict[str, Any] = {}
    call(relation, source, weight)
    if change == "in place":
        weight.mul_(3)
    elif change == "another":
        weight = weight + 1
    elif change == "none":
        weight = None
    elif change == "mean":
        options = {"reduction": "mean"}
    elif change == "a type":
        source, weight = source.double(), weight.double()
    else:
        weight.requires_grad_()
    expected = hetero_aggregate([source], [relation], [weight], route="sparse", **options)
    torch.testing.assert_close(call(relation, source, weight, **options), expected)


def test_trained_weights_keep_nothing_but_places(one: Any) -> None:
    relation, source, weight = one
    weight.requires_grad_()
    expected = call(relation, source, weight)
    with torch.no_grad():
        weight.data.mul_(2)  # unseen by torch's count
    torch.testing.assert_close(call(relation, source, weight), 2 * expected)


def test_a_matrix_made_in_inference_serves_training(one: Any) -> None:
    relation, source, weight = one
    with torch.inference_mode():
        expected = call(relation, source, weight)
        call(relation, source, weight.clone())  # a tensor of inference: not kept
    out = call(relation, source.requires_grad_(), weight)
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert source.grad is not None


@pytest.mark.parametrize("route", ["sparse", "dense"])
def test_shares_made_in_inference_serve_training(one: Any, route: Any) -> None:
    relation, source, weight = one
    with torch.inference_mode():
        expected = hetero_aggregate([source], [relation], [weight], reduction="mean", route=route)
    out = hetero_aggregate([source], [relation], [weight.requires_grad_()], reduction="mean", route=route)
    torch.testing.assert_close(out, expected)
    out.sum().backward()


# As another process gets it, a loader's worker say; the package itself reads no pickle (tests/test_pickles.py).
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep", "pickled"])
def test_a_copy_of_a_relation_computes_the_same(one: Any, copied: Any) -> None:
    relation, source, weight = one
    expected = call(relation, source, weight)
    torch.testing.assert_close(call(copied(relation), source, weight), expected)


# Which route is taken.


def took_a_product(source: Tensor, relation: Relation, count: int = 1, **options: Any) -> bool:
    """Whether ``count`` relations that read one source did."""
    with Operators() as ran:
        hetero_aggregate([source] * count, [relation] * count, **options)
    assert ("hetero_aggregate" in ran.names) != (ran.products() > 0)
    return ran.products() > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_density_decides(dtype: torch.dtype) -> None:
    source = torch.randn(100, 512, generator=generator(1)).to(dtype)
    limit = int(100 * routes.threshold(source))
    assert took_a_product(source, edges(100, 100, limit + 2)) and not took_a_product(source, edges(100, 100, limit - 2))


def test_trained_weights_need_more() -> None:
    """On the CPU, where their gradient is a product more."""
    source = torch.randn(100, 512, generator=generator(1))
    weight = torch.randn(10_000, requires_grad=True)
    low, high = routes.threshold(source), routes.threshold(source, weight)
    assert low <= high < 1
    for each, trained in ((int(100 * high) + 2, True), (int(50 * (low + high)), low == high)):
        assert took_a_product(source, edges(100, 100, each), weights=[weight[: 100 * each]]) == trained
        with torch.no_grad():
            assert took_a_product(source, edges(100, 100, each), weights=[weight[: 100 * each]])


def test_relations_that_share_a_source_share_a_product() -> None:
    source = torch.randn(100, 512, generator=generator(1))
    half = edges(100, 100, int(60 * routes.threshold(source)))
    assert not took_a_product(source, half) and took_a_product(source, half, 2)
    assert not took_a_product(source, half, 2, output="stacked")
    with Operators() as ran:
        hetero_aggregate([source] * 3, [half] * 3)
    assert ran.products() == 1


def test_a_relation_goes_its_own_way() -> None:
    first, second = (torch.randn(100, 512, generator=generator(seed)) for seed in (1, 2))
    few, many = edges(100, 100, 30), edges(100, 100, 90)
    with Operators() as ran:
        out = hetero_aggregate([first, second], [few, many])
    assert "hetero_aggregate" in ran.names and ran.products() == 1
    torch.testing.assert_close(out, hetero_aggregate_reference([first, second], [few, many]), rtol=1e-5, atol=1e-4)


def test_little_work_is_one_call_of_the_kernel() -> None:
    assert not took_a_product(torch.randn(100, 8), edges(100, 100, 100))


def test_matrices_stay_below_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The densest come first; what is asked for by name is refused."""
    monkeypatch.setattr(routes, "MOST_BYTES", 100 * 100 * 4)
    sources = [torch.randn(100, 512, generator=generator(seed)) for seed in (1, 2)]
    relations = [edges(100, 100, 80), edges(100, 100, 90)]
    with Operators() as ran:
        hetero_aggregate(sources, relations)
    assert "hetero_aggregate" in ran.names and ran.products() == 1
    assert relations[0]._matrix is None and relations[1]._matrix is not None
    with pytest.raises(InputError, match=r"relations\[0\] would take the dense route's matrices beyond 0 MB"):
        hetero_aggregate(sources, relations, route="dense")


@pytest.mark.parametrize("route", ["dense", "sparse"])
def test_a_route_can_be_forced(route: Any) -> None:
    source = torch.randn(100, 512)
    assert took_a_product(source, edges(100, 100, 10 if route == "dense" else 90), route=route) == (route == "dense")


def test_an_unknown_route_is_named() -> None:
    with pytest.raises(InputError, match="route is 'csr': choose 'auto', 'sparse' or 'dense'"):
        hetero_aggregate([torch.zeros(7, 4)], [edges(6, 7, 2)], route="csr")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "rises"),
    [([0, 2, 1, 3], True), ([0, 0, 1, 3], False), ([2, 0, 1, 3], False), ([1, 2, 0, 0], False)],
    ids=str,
)
def test_whether_columns_rise(columns: list[int], rises: bool) -> None:
    offsets = torch.tensor([0, 0, 2, 2, 4, 4])
    assert Relation(offsets, torch.tensor(columns, dtype=torch.int32), 4).rising == rises


def test_no_edges_rise() -> None:
    assert Relation(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 4).rising
