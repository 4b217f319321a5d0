"""The p-adapter's module against loops, and its switches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.generative.methods.loops import adapted_attention
from vlmadapt.errors import InputError
from vlmadapt.generative.methods.p_adapter import PAdapter
from vlmadapt.generative.methods.p_config import INITIAL_P, PAdapterConfig
from vlmadapt.generative.methods.pooling import pool_attention

WIDTH, HEADS = 12, 3


def made(kind: Any = "cross", dtype: torch.dtype = torch.float64, **fields: Any) -> PAdapter:
    """An adapter in the middle of its training."""
    config = PAdapterConfig(**{"reduction": 2, **fields})
    generator = torch.Generator().manual_seed(3)
    adapter = PAdapter(WIDTH, HEADS, kind, config, dtype=torch.float64, generator=generator)
    assert adapter.theta is not None
    with torch.no_grad():
        for parameter in (adapter.up.weight, adapter.up.bias, adapter.down.bias, adapter.gate.bias, adapter.theta):
            parameter.normal_(generator=generator)
    return adapter.to(dtype)


def inputs(kind: str = "cross", queries: int = 3, keys: int = 5, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def heads(length: int) -> Tensor:
        return torch.randn(2, HEADS, length, WIDTH // HEADS, generator=generator, dtype=torch.float64).to(dtype)

    output = nn.Linear(WIDTH, WIDTH, dtype=torch.float64).requires_grad_(False)
    for parameter in output.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return {"query": heads(queries), "key": heads(keys), "value": heads(keys), "output": output.to(dtype)}


SWITCHES: list[dict[str, Any]] = [
    {},
    {"task": "vqa", "residual": "none"},
    {"task": "entailment"},
    {"p": 1.0, "learn_p": False},
    {"p": 2.0, "learn_p": False},
    {"p": 2.5, "p_range": "above-one", "mu0": 0.7},
    {"self_attention": "homogeneous"},
    {"self_attention": "homogeneous", "p": 2.0, "learn_p": False, "residual": "self-only"},
    {"self_loops": "keep", "p": 1.25},
    {"key_pooling": "sum", "pooled_keys": 2},
    {"key_pooling": "sum", "pooled_keys": 9},
    {"key_pooling": "mean", "pooled_keys": 3, "p_range": "free"},
]


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("fields", [*SWITCHES, {**PAdapterConfig.released(task="vqa").as_dict(), "pooled_keys": 2}])
def test_equals_loops(kind: str, fields: dict[str, Any]) -> None:
    fields = {**fields, "reduction": 2}
    adapter, given = made(kind, **fields), inputs(kind)
    attended = torch.ones(2, 3, 5, dtype=torch.bool)
    attended[1, :, 3:] = False
    attended[0, 0, 1] = False
    result = adapter(**given, mask=attended.unsqueeze(1))
    mu0 = adapter.config.initial_mu
    assert adapter.theta is not None
    mu = 2 * mu0 + mu0 * math.tanh(adapter.theta.item())
    truth = adapted_attention(adapter, **given, p=adapter.config.initial_p, mu=mu, attended=attended)
    torch.testing.assert_close(result, truth, rtol=0, atol=1e-9)


def test_the_two_ways_to_features_agree() -> None:
    """One product a token beyond the bottleneck's width of tokens, two up to it."""
    adapter = made()
    x = torch.randn(3, HEADS, 5, WIDTH // HEADS, dtype=torch.float64)
    for output in (nn.Linear(WIDTH, WIDTH).double(), nn.Linear(WIDTH, WIDTH, bias=False).double()):
        together = adapter.features(x, output)
        apart = torch.cat([adapter.features(x[:, :, i : i + 1], output) for i in range(5)], 2)
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "fields", [{}, {"p_range": "above-one", "self_attention": "homogeneous"}, {"key_pooling": "sum", "pooled_keys": 2}]
)
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_gradients(kind: str, fields: dict[str, Any]) -> None:
    adapter, given = made(kind, **fields), inputs(kind, 2, 3)
    output = given.pop("output")
    tensors = [tensor.requires_grad_() for tensor in given.values()]
    parameters = dict(adapter.named_parameters())
    assert {"raw_p", "theta"} <= parameters.keys()

    def run(*values: Tensor) -> Tensor:
        state = dict(zip(parameters, values[3:], strict=True))
        return torch.func.functional_call(adapter, state, (*values[:3], output))

    assert torch.autograd.gradcheck(run, [*tensors, *parameters.values()], fast_mode=True)


def test_step_zero_changes_nothing() -> None:
    given = inputs()
    adapter = PAdapter(WIDTH, HEADS, "cross", {"reduction": 2}, dtype=torch.float64)
    scaled = nn.functional.scaled_dot_product_attention(given["query"], given["key"], given["value"])
    frozen = given["output"](scaled.transpose(1, 2).flatten(2))
    torch.testing.assert_close(adapter(**given), frozen, rtol=0, atol=1e-12)


def test_p_of_two_is_plain_aggregation() -> None:
    adapter, given = made(p=2.0, learn_p=False), inputs()
    _, messages = adapter.attend(**given)
    probabilities = (given["query"] @ given["key"].mT * (WIDTH // HEADS) ** -0.5).softmax(-1)
    x_query, x_value = (adapter.features(given[name], given["output"]) for name in ("query", "value"))
    mu = adapter.mu()
    plain = (probabilities @ x_value + mu * x_query) / (1 + mu)
    torch.testing.assert_close(messages, plain.transpose(1, 2).flatten(2), rtol=0, atol=1e-12)
    assert adapter.raw_p is None


def whole_graph(attention: Tensor, nodes: Tensor, p: float, mu: float, queries: int, pull: bool) -> Tensor:
    """The released arithmetic on the adjacency of all nodes, of which the first ``queries`` rows are kept; eps also
    under the square root, where the operator has none."""
    eps = 1e-8
    difference = nodes.unsqueeze(-2) - nodes.unsqueeze(-3)
    length = ((attention + eps).sqrt().unsqueeze(-1) * difference + eps).norm(dim=-1)
    weight = attention * length ** (p - 2)
    pulled = 2 * mu / p
    total = weight.sum(-1, keepdim=True) + pulled
    return ((weight @ nodes + (pulled * nodes if pull else 0)) / total)[..., :queries, :]


@pytest.mark.parametrize("task", INITIAL_P)
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_released_switches_are_the_released_arithmetic(task: str, kind: str) -> None:
    adapter = made(kind, **{**PAdapterConfig.released(task=task).as_dict(), "pooled_keys": 4, "reduction": 2})
    given = inputs(kind, 5, 5)
    _, messages = adapter.attend(**given)
    probabilities = (given["query"] @ given["key"].mT * (WIDTH // HEADS) ** -0.5).softmax(-1)
    x_query, x_value = (adapter.features(given[name], given["output"]) for name in ("query", "value"))
    p, mu = adapter.config.initial_p, float(torch.as_tensor(adapter.mu()).detach())
    if kind == "self":
        released = whole_graph(probabilities, x_value, p, mu, 5, pull=True)
    else:
        fewer, pooled = pool_attention(probabilities, x_value, "mean", 4)
        corner = [torch.zeros(*fewer.shape[:2], n, n, dtype=torch.float64) for n in (5, 4)]
        bipartite = torch.cat([torch.cat([corner[0], fewer], -1), torch.cat([fewer.mT, corner[1]], -1)], -2)
        released = whole_graph(bipartite, torch.cat([x_query, pooled], 2), p, mu, 5, pull=False)
    torch.testing.assert_close(messages, released.transpose(1, 2).flatten(2), rtol=1e-5, atol=1e-6)
    if kind == "self" and task == "vqa":
        # At p = 1.25 the kept self-loops drown the neighbours: the identity, nearly.
        own = x_value.transpose(1, 2).flatten(2)
        torch.testing.assert_close(messages, own, rtol=0, atol=1e-3 * float(own.detach().abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("task", INITIAL_P)
@pytest.mark.parametrize("p_range", ["one-to-two", "above-one", "free"])
def test_p_starts_where_told_and_stays_in_its_range(task: str, p_range: str) -> None:
    adapter = PAdapter(WIDTH, HEADS, "self", {"task": task, "p_range": p_range, "reduction": 2})
    assert adapter.raw_p is not None and adapter.theta is not None
    assert float(adapter.p()) == pytest.approx(INITIAL_P[task])
    assert float(adapter.mu()) == pytest.approx(20.0 if task == "entailment" else 0.2)
    for extreme in (-80.0, 80.0):
        nn.init.constant_(adapter.raw_p, extreme)
        assert 1 <= float(adapter.p()) <= (2 if p_range == "one-to-two" else 81)
        nn.init.constant_(adapter.theta, extreme)
        assert 0 < float(adapter.mu()) < 31


def test_sum_pooling_keeps_the_sums_of_rows() -> None:
    attention = torch.rand(2, 3, 4, 11).softmax(-1)
    for keys in (1, 4, 11, 20):
        fewer, x = pool_attention(attention, torch.ones(2, 3, 11, 2), "sum", keys)
        assert fewer.shape[-1] == x.shape[-2] == min(keys, 11)
        torch.testing.assert_close(fewer.sum(-1), torch.ones(2, 3, 4))
        torch.testing.assert_close(x, torch.ones_like(x))


def test_packed_values_give_the_same() -> None:
    """What goes into a KV cache carries its features."""
    cases: list[tuple[str, dict[str, Any]]] = [("self", {}), ("self", {"self_attention": "homogeneous"}), ("cross", {})]
    for kind, fields in cases:
        adapter, given = made(kind, **fields), inputs(kind)
        packed = {**given, "value": adapter.pack(given["value"], given["output"])}
        torch.testing.assert_close(adapter(**packed), adapter(**given), rtol=0, atol=1e-12)


@pytest.mark.parametrize("fields", [{}, {"key_pooling": "mean"}])
def test_dropout_drops_from_the_context_only(fields: dict[str, Any]) -> None:
    adapter, given = made(**fields), inputs()
    context, messages = adapter.attend(**given)
    dropped, same = adapter.attend(**given, dropout=0.5)
    torch.testing.assert_close(same, messages)
    assert not torch.allclose(dropped, context)


@pytest.mark.parametrize("fields", [{}, {"self_attention": "homogeneous"}, {"task": "entailment"}])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_bfloat16(kind: str, fields: dict[str, Any]) -> None:
    wide = made(kind, **fields)(**inputs(kind))
    adapter = made(kind, torch.bfloat16, **fields)
    result = adapter(**inputs(kind, dtype=torch.bfloat16))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), wide, rtol=0.1, atol=0.1)
    result.float().square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in adapter.parameters())


def test_autocast() -> None:
    adapter, given = made(dtype=torch.float32), inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = adapter(**given)
    torch.testing.assert_close(result.float(), adapter(**given), rtol=0.1, atol=0.1)
    result.float().square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in adapter.parameters())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "translation"}, "task is 'translation'"),
        ({"p": 2.0}, "p is 2.0"),
        ({"p": 0.5, "learn_p": False}, "of at least 1"),
        ({"p": float("nan"), "learn_p": False}, "p is nan"),
        ({"mu0": 0.0}, "mu0 is 0.0"),
        ({"reduction": 0}, "reduction is 0"),
        ({"pooled_keys": 0}, "pooled_keys is 0"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"colour": 1}, "no field 'colour'"),
    ],
)
def test_refused_configurations(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PAdapterConfig.make(fields)


def test_a_width_that_does_not_split_names_a_reduction_that_does() -> None:
    with pytest.raises(InputError, match="pass one such as 4"):
        PAdapter(WIDTH, HEADS, "self", {"reduction": 8})
    PAdapter(WIDTH, HEADS, "self", {"reduction": 4})


def test_every_field_is_documented() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "p_adapter.md").read_text(encoding="utf-8")
    for name, _, explanation in PAdapterConfig.describe():
        assert f"`{name}`" in page and explanation, name
