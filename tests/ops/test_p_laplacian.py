"""p-Laplacian attention against a loop over pairs in float64, and against its plain-PyTorch reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.ops.accuracy import Draw, assert_accurate, draw_of
from tests.ops.draw import DTYPES, generator
from vlmadapt.errors import InputError
from vlmadapt.ops import (
    p_laplacian,
    p_laplacian_attention,
    p_laplacian_attention_reference,
    p_laplacian_reference,
)

# batch, heads, queries, keys, width, value width, features: one, odd, a tile and one more, several blocks, empty.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 4, 6, 5, 7, 3),
    (1, 2, 33, 65, 16, 5, 9),
    (2, 1, 70, 77, 8, 8, 8),
    (1, 1, 3, 200, 33, 40, 24),
    (1, 2, 113, 31, 4, 3, 96),
    (0, 2, 3, 4, 5, 6, 7),
    (2, 2, 0, 4, 5, 6, 7),
    (2, 2, 3, 0, 5, 6, 7),
    (1, 2, 3, 4, 0, 0, 2),
    (1, 2, 3, 4, 5, 6, 0),
]


class Data:
    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        batch, heads, queries, keys, width, value_width, features = shape
        source = generator(seed)

        def draw(rows: int, columns: int) -> Tensor:
            return torch.randn(batch, heads, rows, columns, generator=source, dtype=torch.float64).to(dtype)

        self.query, self.key, self.value = draw(queries, width), draw(keys, width), draw(keys, value_width)
        self.x_query, self.x_value = draw(queries, features), draw(keys, features)
        self.attention = (torch.softmax(draw(queries, keys).double(), -1) if keys else draw(queries, 0)).to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.p = torch.linspace(1.25, 3, heads, dtype=wide)
        self.mu = torch.linspace(0.1, 0.4, heads, dtype=wide)

    def inputs(self, names: str, grad: bool = True) -> dict[str, Any]:
        return {name: getattr(self, name).detach().clone().requires_grad_(grad) for name in names.split()}


PROBABILITIES = "attention x_query x_value p mu"
SCORES = "query key x_query x_value p mu value"


def pair_loop(
    attention: Tensor,
    x_query: Tensor,
    x_value: Tensor,
    p: float,
    mu: float,
    residual: str = "query",
    self_loops: str = "drop",
    homogeneous: bool = False,
    eps: float = 1e-8,
) -> Tensor:
    """One head [Lq, Lk], [Lq, d], [Lk, d]: the formula pair by pair."""
    queries, keys = attention.shape
    out = torch.zeros_like(x_query)
    for i in range(queries):
        home = x_query[i] if residual == "query" else torch.zeros_like(x_query[i])
        total, moved = torch.tensor(2 * mu / p, dtype=torch.float64), 2 * mu / p * home
        for j in range(keys):
            a = attention[i, j]
            if a == 0:
                continue
            if self_loops == "keep":
                norm = torch.linalg.vector_norm(a.sqrt() * (x_query[i] - x_value[j]) + eps)
            else:
                if homogeneous and j == i + keys - queries:
                    continue
                norm = torch.linalg.vector_norm(a.sqrt() * (x_query[i] - x_value[j]))
                if norm == 0 and p != 2:
                    continue
            weight = a * norm ** (p - 2)
            total = total + weight
            moved = moved + weight * x_value[j]
        out[i] = home if total == 0 else moved / total
    return out


@pytest.mark.parametrize("p", [1.0, 1.25, 2.0, 3.0])
@pytest.mark.parametrize("mu", [0.0, 0.1])
@pytest.mark.parametrize("residual", ["query", "none"])
@pytest.mark.parametrize("loops", ["drop", "keep", "homogeneous"])
def test_every_switch_equals_the_loop_over_pairs(p: float, mu: float, residual: str, loops: str) -> None:
    data = Data((1, 2, 5, 9, 4, 4, 3))
    options: dict[str, Any] = {"residual": residual, "self_loops": "keep" if loops == "keep" else "drop"}
    options["homogeneous"] = loops == "homogeneous"
    data.x_value[:, :, 4:] = data.x_query  # query i is key i + 4
    data.x_value[0, 1, 2] = data.x_query[0, 1, 1]  # a coincidence off the diagonal
    scores = data.query @ data.key.mT / 2
    from_scores = p_laplacian_attention(data.query, data.key, data.x_query, data.x_value, p, mu, **options).out
    data.attention[:, :, 0, :] = 0  # a row without edges
    data.attention[:, :, 1, 3] = 0
    from_attention = p_laplacian(data.attention, data.x_query, data.x_value, p, mu, **options)
    for head in range(2):
        nodes = (data.x_query[0, head], data.x_value[0, head], p, mu)
        expected = pair_loop(data.attention[0, head], *nodes, **options)
        torch.testing.assert_close(from_attention[0, head], expected, rtol=1e-9, atol=1e-9)
        expected = pair_loop(scores[0, head].softmax(-1), *nodes, **options)
        torch.testing.assert_close(from_scores[0, head], expected, rtol=1e-9, atol=1e-9)


def test_the_released_form_with_its_switches() -> None:
    """The released code stacks query and value nodes, [[0, A], [A^T, 0]], in cross-attention without a residual."""
    data = Data((1, 2, 5, 7, 4, 4, 3))
    p, mu, eps = 1.25, 0.1, 1e-8
    nodes = torch.cat([data.x_query, data.x_value], -2)
    corner = data.attention.new_zeros(1, 2, 5, 5)
    below = torch.cat([data.attention.mT, data.attention.new_zeros(1, 2, 7, 7)], -1)
    adjacency = torch.cat([torch.cat([corner, data.attention], -1), below], -2)
    gradient = adjacency.sqrt().unsqueeze(-1) * (nodes.unsqueeze(-2) - nodes.unsqueeze(-3)) + eps
    weights = adjacency * gradient.norm(dim=-1) ** (p - 2)
    expected = (weights @ nodes / (weights.sum(-1, keepdim=True) + 2 * mu / p))[:, :, :5]
    ours = p_laplacian(data.attention, data.x_query, data.x_value, p, mu, residual="none", self_loops="keep", eps=eps)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    # Off the singularity eps does nothing: without self pairs the default arithmetic is the released one.
    dropped = p_laplacian(data.attention, data.x_query, data.x_value, p, mu, residual="none")
    torch.testing.assert_close(dropped, expected, rtol=1e-6, atol=1e-6)


def test_kept_self_loops_dominate_as_in_the_released_code() -> None:
    x = Data((1, 1, 6, 6, 1, 1, 8)).x_query
    attention = torch.full((1, 1, 6, 6), 1 / 6, dtype=torch.float64)
    kept = p_laplacian(attention, x, x, 1.25, 0.0, residual="none", self_loops="keep")
    assert (kept - x).abs().max() < 1e-4  # a self-loop weighs 4.6e5 times its attention
    dropped = p_laplacian(attention, x, x, 1.25, 0.0, residual="none")
    assert (dropped - x).abs().max() > 0.1


MASKS = ["none", "causal", "boolean", "padding", "additive", "lengths", "everything", "homogeneous"]


def mask_options(kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    batch, heads, queries, keys = shape[:4]
    source = generator(5)
    boolean = torch.rand(batch, 1, queries, keys, generator=source) > 0.4
    if queries > 1:
        boolean[:, :, 1] = False  # a fully masked row
    additive = torch.randn(1, heads, queries, keys, generator=source).masked_fill(~boolean[:1], -torch.inf)
    lengths = (torch.arange(batch) * 3 + 2).clamp(max=keys)
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "causal": {"is_causal": True},
        "boolean": {"mask": boolean},
        "padding": {"mask": torch.rand(batch, 1, 1, keys, generator=source) > 0.4},
        "additive": {"mask": additive},
        "lengths": {"key_lengths": lengths},
        "everything": {"mask": additive[:, :1], "is_causal": True, "key_lengths": lengths, "scale": 0.3},
        "homogeneous": {"homogeneous": keys >= queries, "is_causal": True},
    }
    return options[kind]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", MASKS)
def test_scores_and_gradients_equal_the_reference(shape: tuple[int, ...], kind: str) -> None:
    if kind in ("boolean", "additive", "everything") and 0 in shape[:4]:
        kind = "causal"
    options = mask_options(kind, shape)
    results = []
    for function in (p_laplacian_attention, p_laplacian_attention_reference):
        inputs = Data(shape).inputs(SCORES)
        out, context, lse = function(**inputs, return_lse=True, **options)
        assert context is not None and lse is not None
        seen = torch.where(lse.isinf(), 0, lse)
        results.append([out, context, lse, *gradients(inputs, out, context, seen)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
        assert not ours.isnan().any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"self_loops": "keep"}, {"residual": "none"}], ids=str)
def test_probabilities_and_gradients_equal_the_reference(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    if shape[-1] == 0:
        options = {}
    results = []
    for function in (p_laplacian, p_laplacian_reference):
        inputs = Data(shape).inputs(PROBABILITIES)
        out = function(**inputs, **options)
        results.append([out, *gradients(inputs, out)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def gradients(inputs: dict[str, Tensor], *outputs: Tensor) -> tuple[Tensor, ...]:
    """Of a random linear function of the outputs."""
    source = generator(1)
    loss = torch.zeros((), dtype=torch.float64)
    for x in outputs:
        loss = loss + (x.double() * torch.randn(x.shape, generator=source).double()).sum()
    grads = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs.values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_p_two_is_plain_aggregation(dtype: torch.dtype) -> None:
    data = Data((2, 3, 20, 50, 8, 8, 8), dtype)
    data.x_value[:, :, 7] = data.x_query[:, :, 3]  # a coincidence has its edge at p = 2
    mu = 0.3
    expected = (data.attention @ data.x_value + mu * data.x_query) / (data.attention.sum(-1, keepdim=True) + mu)
    torch.testing.assert_close(p_laplacian(data.attention, data.x_query, data.x_value, 2.0, mu), expected)
    context = scaled_dot_product_attention(data.query, data.key, data.x_value)
    result = p_laplacian_attention(data.query, data.key, data.x_query, data.x_value, 2.0, 0.0, value=data.value)
    torch.testing.assert_close(result.out, context)
    torch.testing.assert_close(result.context, scaled_dot_product_attention(data.query, data.key, data.value))


def test_fully_masked_rows_give_the_residual_and_finite_gradients() -> None:
    data = Data((1, 2, 5, 7, 4, 3, 6), torch.float32)
    mask = torch.ones(1, 1, 5, 7, dtype=torch.bool)
    mask[..., 2, :] = False
    for mu in (0.1, 0.0):
        for residual in ("query", "none"):
            inputs = data.inputs(SCORES)
            inputs["mu"] = torch.tensor(mu, requires_grad=True)
            out, context, lse = p_laplacian_attention(**inputs, mask=mask, residual=residual, return_lse=True)
            assert context is not None and lse is not None
            home = data.x_query[:, :, 2] if residual == "query" else torch.zeros(1, 2, 6)
            assert torch.equal(out[:, :, 2], home) and (context[:, :, 2] == 0).all() and lse[:, :, 2].isinf().all()
            grads = torch.autograd.grad(out[:, :, 2].sum() + context[:, :, 2].sum(), list(inputs.values()))
            for name, grad in zip(inputs, grads, strict=True):
                wanted = torch.zeros_like(grad)
                if name == "x_query" and residual == "query":
                    wanted[:, :, 2] = 1
                assert torch.equal(grad, wanted), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [1.0, 1.25, 2.0, 2.5])
@pytest.mark.parametrize("self_loops", ["drop", "keep"])
def test_coincident_features_and_zero_attention_are_finite(dtype: torch.dtype, p: float, self_loops: Any) -> None:
    data = Data((1, 2, 40, 40, 4, 3, 8), dtype)
    data.x_value = data.x_query.clone()
    data.x_value[:, :, 5:9] = data.x_query[:, :, :1]
    data.attention[:, :, :, ::3] = 0
    data.attention[:, :, 11] = 0
    data.p = torch.full((2,), p, dtype=data.p.dtype)
    for function, names in ((p_laplacian, PROBABILITIES), (p_laplacian_attention, SCORES)):
        inputs = data.inputs(names)
        result = function(**inputs, self_loops=self_loops)
        outputs = [result] if isinstance(result, Tensor) else [result.out, result.context]
        grads = gradients(inputs, *outputs)
        assert all(x.isfinite().all() for x in (*outputs, *grads))


def gram_eager(
    query: Tensor, key: Tensor, x_query: Tensor, x_value: Tensor, p: Tensor, mu: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The fast way to write it in PyTorch: distances through products."""
    scores = query @ key.mT * query.shape[-1] ** -0.5
    attention = scores.softmax(-1)
    squares = (x.square().sum(-1) for x in (x_query, x_value))
    distance = (next(squares).unsqueeze(-1) + next(squares).unsqueeze(-2) - 2 * x_query @ x_value.mT).clamp(min=1e-12)
    p, mu = p.reshape(-1, 1, 1), mu.reshape(-1, 1, 1)
    weights = attention * (attention * distance).pow((p - 2) / 2)
    out = (weights @ x_value + 2 * mu / p * x_query) / (weights.sum(-1, keepdim=True) + 2 * mu / p)
    return out, attention @ value, scores.logsumexp(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("p", [1.25, 1.75, 2.0])
def test_error_is_at_most_twice_that_of_eager(dtype: torch.dtype, p: float) -> None:
    def ours(**inputs: Any) -> dict[str, Tensor]:
        result = p_laplacian_attention(**inputs, return_lse=True)
        assert result.context is not None and result.lse is not None
        return {"out": result.out, "context": result.context, "lse": result.lse}

    def eager(**inputs: Tensor) -> dict[str, Tensor]:
        return dict(zip(("out", "context", "lse"), gram_eager(**inputs), strict=True))

    def draw(seed: int) -> Draw:
        inputs = Data((1, 3, 90, 170, 64, 64, 8), dtype, seed).inputs(SCORES, False)
        vectors = {"p": torch.full((3,), p), "mu": torch.full((3,), 0.125)}
        return draw_of(ours, eager, inputs | vectors, seed)

    assert_accurate(draw)


@pytest.mark.parametrize("name", ["query", "x_query"])
def test_nan_in_a_query_makes_its_row_nan(name: str) -> None:
    inputs = Data((1, 1, 20, 50, 8, 4, 6), torch.float32).inputs(SCORES, False)
    inputs[name][0, 0, 4, 1] = float("nan")
    out = p_laplacian_attention(**inputs).out
    assert out[0, 0, 4].isnan().all() and out[0, 0, 5].isfinite().all()


def test_a_negative_weight_has_no_power() -> None:
    inputs = Data((1, 1, 20, 50, 8, 4, 6), torch.float32).inputs(PROBABILITIES, False)
    inputs["attention"][0, 0, 4, 1] = -0.1
    assert p_laplacian(**inputs)[0, 0, 4].isnan().all()


def test_decoding_step_by_step_equals_the_whole() -> None:
    """The queries are the last of the keys: causal and homogeneous mean the same with a cache of keys."""
    data = Data((1, 2, 9, 9, 4, 3, 6))
    options: dict[str, Any] = {"is_causal": True, "homogeneous": True}
    x = data.x_query
    whole = p_laplacian_attention(data.query, data.key, x, x, 1.5, 0.1, value=data.value, **options)
    assert whole.context is not None
    for i in range(9):
        one, seen = slice(i, i + 1), slice(0, i + 1)
        step = p_laplacian_attention(
            data.query[:, :, one],
            data.key[:, :, seen],
            x[:, :, one],
            x[:, :, seen],
            1.5,
            0.1,
            value=data.value[:, :, seen],
            **options,
        )
        torch.testing.assert_close(step.out, whole.out[:, :, one])
        torch.testing.assert_close(step.context, whole.context[:, :, one])


ENTRY_1 = [
    ({"attention": torch.zeros(3, 4)}, r"attention must be .* \[batch, heads, rows, columns\] but is float32 \[3, 4\]"),
    ({"x_query": torch.zeros(2, 2, 4, 6)}, r"x_query is float32 \[2, 2, 4, 6\] but must be \[2, 2, 3, 6\]"),
    ({"x_value": torch.zeros(2, 2, 4, 5)}, r"x_value is .* but must be \[2, 2, 4, 6\]"),
    ({"p": 0.5}, "p is 0.5: pass at least 1"),
    ({"p": torch.ones(3)}, "p is float32 .* one value for each of the 2 heads"),
    ({"mu": -1.0}, "mu is -1: pass at least 0"),
    ({"residual": "key"}, "residual is 'key'"),
    ({"self_loops": "yes"}, "self_loops is 'yes'"),
    ({"eps": 0.0}, "eps is 0.0"),
]
ENTRY_2 = [
    ({"key": torch.zeros(2, 2, 4, 6)}, r"key is .* but must be \[2, 2, 4, 5\]"),
    ({"value": torch.zeros(2, 2, 3, 6)}, r"value is .* but must be \[2, 2, 4, 6\]"),
    ({"mask": torch.zeros(3, 5)}, r"mask is float32 \[3, 5\] but must broadcast to \[2, 2, 3, 4\]"),
    ({"mask": torch.zeros(3, 4, requires_grad=True)}, "mask requires a gradient"),
    ({"key_lengths": torch.zeros(3, dtype=torch.int64)}, r"key_lengths is int64 \[3\] but must be integers \[2\]"),
]


@pytest.mark.parametrize(("change", "message"), ENTRY_1, ids=[message[:40] for _, message in ENTRY_1])
def test_bad_arguments_of_probabilities_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"attention": torch.zeros(2, 2, 3, 4), "x_query": torch.zeros(2, 2, 3, 6)}
    arguments |= {"x_value": torch.zeros(2, 2, 4, 6), "p": 1.5, "mu": 0.1}
    with pytest.raises(InputError, match=message):
        p_laplacian(**(arguments | change))


@pytest.mark.parametrize(("change", "message"), ENTRY_2, ids=[message[:40] for _, message in ENTRY_2])
def test_bad_arguments_of_scores_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"query": torch.zeros(2, 2, 3, 5), "key": torch.zeros(2, 2, 4, 5), "p": 1.5, "mu": 0.1}
    arguments |= {"x_query": torch.zeros(2, 2, 3, 6), "x_value": torch.zeros(2, 2, 4, 6)}
    with pytest.raises(InputError, match=message):
        p_laplacian_attention(**(arguments | change))


def test_homogeneous_needs_the_queries_among_the_keys() -> None:
    with pytest.raises(InputError, match="5 queries and 4 keys"):
        p_laplacian(torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 4, 2), 1.5, 0.1,
                    homogeneous=True)  # fmt: skip
