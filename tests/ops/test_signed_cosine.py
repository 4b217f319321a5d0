"""The signed-cosine graph, streamed and factorised, against the dense matrix written out."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.draw import generator
from vlmadapt.errors import InputError
from vlmadapt.ops import (
    hetero_aggregate,
    signed_cosine_aggregate,
    signed_cosine_degrees,
    signed_cosine_reference,
    signed_cosine_top_k,
)

# targets, sources, width; one row, fewer rows than columns, more, none.
SHAPES = [(1, 1, 3), (9, 9, 70), (60, 60, 5), (130, 130, 20), (7, 200, 6), (0, 4, 3), (4, 0, 3), (0, 0, 3)]
DIAGONALS: list[Any] = ["keep", "negate", "zero"]


def make(shape: tuple[int, int, int], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = generator(seed)
    rows, columns, width = shape
    targets, sources = (torch.randn(n, width, generator=source, dtype=torch.float64) for n in (rows, columns))
    return targets.to(dtype), sources.to(dtype)


def written_out(targets: Tensor, sources: Tensor, diagonal: str) -> Tensor:
    targets, sources = targets.double(), sources.double()
    dense = torch.zeros(len(targets), len(sources), dtype=torch.float64)
    for i, t in enumerate(targets):
        dense[i] = (t * sources).sum(1) / (t.norm() * sources.square().sum(1).sqrt())
    dense.diagonal().mul_({"keep": 1, "negate": -1, "zero": 0}[diagonal])
    return dense


def cases() -> list[Any]:
    return [
        pytest.param(shape, diagonal, id=f"{shape}-{diagonal}")
        for shape in SHAPES
        for diagonal in DIAGONALS
        if diagonal == "keep" or shape[0] == shape[1]
    ]


@pytest.fixture(params=[None, 1000], ids=["one tile", "many tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr("vlmadapt.ops.signed_cosine.function.TILE_BYTES", request.param)


@pytest.mark.parametrize(("shape", "diagonal"), cases())
def test_degrees_are_sums_of_magnitudes(shape: Any, diagonal: Any, tiles: None) -> None:
    targets, sources = make(shape)
    dense = written_out(targets, sources, diagonal)
    rows, columns = signed_cosine_degrees(targets, sources, diagonal=diagonal)
    torch.testing.assert_close(rows, dense.abs().sum(1), rtol=0, atol=1e-10)
    torch.testing.assert_close(columns, dense.abs().sum(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(signed_cosine_reference(targets, sources, diagonal=diagonal), dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "diagonal"), cases())
@pytest.mark.parametrize("k", [1, 4, 64, 1000])
def test_the_strongest_edges_are_kept_with_their_signs(shape: Any, diagonal: Any, k: int, tiles: None) -> None:
    targets, sources = make(shape)
    dense = written_out(targets, sources, diagonal)
    relation, weights = signed_cosine_top_k(targets, sources, k, diagonal=diagonal)
    assert relation.num_targets == shape[0] and relation.num_sources == shape[1]
    for i in range(shape[0]):
        begin, end = int(relation.row_offsets[i]), int(relation.row_offsets[i + 1])
        candidates = [j for j in range(shape[1]) if diagonal != "zero" or j != i]
        magnitudes = dense[i].abs().tolist()
        expected = sorted(sorted(candidates, key=lambda j: (-magnitudes[j], j))[:k])
        assert relation.columns[begin:end].tolist() == expected
        torch.testing.assert_close(weights[begin:end], dense[i, expected], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "diagonal"), cases())
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("out_width", [4, 90])
def test_the_aggregate_and_its_gradients_equal_the_dense_form(
    shape: Any, diagonal: Any, scaled: bool, out_width: int
) -> None:
    targets, sources = make(shape)
    source = generator(1)
    features = torch.randn(shape[1], out_width, generator=source, dtype=torch.float64)
    scales = [torch.rand(n, generator=source, dtype=torch.float64) + 0.1 for n in shape[:2]]
    leaves = [leaf.requires_grad_() for leaf in (targets, sources, features, *scales)]
    options = {"target_scale": scales[0], "source_scale": scales[1]} if scaled else {}
    ours = signed_cosine_aggregate(targets, sources, features, diagonal=diagonal, **options)
    dense = signed_cosine_reference(targets, sources, diagonal=diagonal)
    expected = dense @ features
    if scaled:
        expected = scales[0].unsqueeze(-1) * (dense @ (scales[1].unsqueeze(-1) * features))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    grad = torch.randn(ours.shape, generator=source, dtype=torch.float64)
    grads = [
        torch.autograd.grad((out * grad).sum(), leaves, allow_unused=True, materialize_grads=True)
        for out in (ours, expected)
    ]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_error_is_at_most_twice_that_of_eager(dtype: torch.dtype) -> None:
    nodes = 300
    options: dict[str, Any] = {"diagonal": "negate"}

    def ours(targets: Tensor, sources: Tensor, features: Tensor) -> dict[str, Tensor]:
        return {
            "out": signed_cosine_aggregate(targets, sources, features, **options),
            "degrees": signed_cosine_degrees(targets, sources, **options)[0],
            "weights": signed_cosine_top_k(targets, sources, nodes, **options)[1].reshape(nodes, nodes),
        }

    def eager(targets: Tensor, sources: Tensor, features: Tensor) -> dict[str, Tensor]:
        dense = signed_cosine_reference(targets, sources, **options)
        seen = dense.detach()
        return {"out": dense @ features, "degrees": seen.abs().sum(1), "weights": seen}

    def draw(seed: int) -> Draw:
        targets, sources = make((nodes, nodes, 48), dtype, seed)
        inputs = {"targets": targets, "sources": sources, "features": make((nodes, nodes, 40), dtype, seed)[1]}
        drawn = draw_of(ours, eager, inputs, seed)
        assert all(drawn.ours[name].dtype == torch.float32 for name in ("out", "degrees", "weights"))
        return drawn

    assert_accurate(draw)


def test_top_k_feeds_hetero_aggregate() -> None:
    targets, sources = make((50, 50, 12))
    features = make((50, 50, 8))[0]
    relation, weights = signed_cosine_top_k(targets, sources, 50, diagonal="zero")
    out = hetero_aggregate([features], [relation], [weights])
    expected = signed_cosine_aggregate(targets, sources, features, diagonal="zero")
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


def test_equal_magnitudes_go_to_the_lower_column() -> None:
    one = torch.ones(1, 2)
    sources = torch.tensor([[1.0, -1], [1, 1], [-1, -1], [2, 2]]).repeat(100, 1)
    relation, weights = signed_cosine_top_k(one, sources, 4)
    assert relation.columns.tolist() == [1, 2, 3, 5] and weights.sign().tolist() == [1, -1, 1, 1]


def test_nan_does_not_pass_silently() -> None:
    targets, sources = make((5, 200, 6))
    sources[150, 2] = float("nan")
    relation, weights = signed_cosine_top_k(targets, sources, 3)
    assert (relation.columns.reshape(5, 3) == 150).any(1).all() and weights.isnan().sum() == 5
    rows, columns = signed_cosine_degrees(targets, sources)
    assert rows.isnan().all() and columns[150].isnan() and columns[:150].isfinite().all()
    assert signed_cosine_aggregate(targets, sources, sources).isnan().all()


def test_a_zero_row_has_no_direction() -> None:
    targets, sources = make((4, 4, 6))
    targets[2] = 0
    assert signed_cosine_degrees(targets, sources)[0][2] == 0


def test_no_gradient_reaches_degrees_and_edges() -> None:
    targets, sources = (x.requires_grad_() for x in make((9, 9, 7)))
    results = [*signed_cosine_degrees(targets, sources), signed_cosine_top_k(targets, sources, 2)[1]]
    assert not any(result.requires_grad for result in results)


BAD_CALLS = [
    (signed_cosine_degrees, {"sources": torch.zeros(4, 5)}, "sources is 5 wide but targets is 3 wide"),
    (signed_cosine_degrees, {"diagonal": "drop"}, "diagonal is 'drop': choose"),
    (signed_cosine_degrees, {"sources": torch.zeros(5, 3), "diagonal": "zero"}, "targets has 4 rows and sources 5"),
    (signed_cosine_top_k, {"k": 0}, "k is 0"),
    (signed_cosine_aggregate, {"features": torch.zeros(3, 3)}, "features has 3 rows but there are 4 sources"),
    (
        signed_cosine_aggregate,
        {"features": torch.zeros(4, 3), "target_scale": torch.zeros(3)},
        "target_scale is float32",
    ),
]


@pytest.mark.parametrize(("function", "change", "message"), BAD_CALLS, ids=[m[:40] for *_, m in BAD_CALLS])
def test_bad_arguments_are_named(function: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(**({"targets": torch.zeros(4, 3), "sources": torch.zeros(4, 3)} | change))


LARGE = """
import resource
import torch
from vlmadapt.ops import signed_cosine_aggregate

nodes, features = torch.randn(2, 21_000, 512)
out = signed_cosine_aggregate(nodes, nodes, features, diagonal="zero", target_scale=torch.rand(21_000))
assert out.isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_the_aggregate_of_21_000_classes_stays_below_2_gb() -> None:
    """The whole process; the matrix alone would take 1.8 GB, and the dense form several of them."""
    printed = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True).stdout
    assert float(printed) < 2
