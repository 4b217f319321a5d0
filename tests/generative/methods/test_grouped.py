"""The p-adapter on grouped-query attention, against the same attention with its keys and values expanded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.generative.tiny import in_training
from vlmadapt.errors import InputError
from vlmadapt.generative.methods import Attached, AttentionSite, Sites, attention_adapter
from vlmadapt.generative.methods.p_adapter import PAdapter, attach_p_adapter
from vlmadapt.generative.models.sites import split_heads

HEADS, SIZE, WIDTH = 6, 4, 36  # W_o takes 24 to 36
SETTINGS: dict[str, Any] = {"reduction": 3, "ffn": False}
SWITCHES: list[dict[str, Any]] = [
    {},
    {"self_attention": "homogeneous"},
    {"task": "entailment", "self_loops": "keep"},
    {"key_pooling": "mean", "pooled_keys": 3},
    {"key_pooling": "sum", "pooled_keys": 2, "residual": "none"},
]


class Grouped(nn.Module):
    """Attention of ``HEADS`` query heads over ``groups`` key-value heads."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.q, self.k, self.v = (nn.Linear(WIDTH, heads * SIZE) for heads in (HEADS, groups, groups))
        self.out = nn.Linear(HEADS * SIZE, WIDTH)

    def projected(self, x: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            split_heads(self.q(x), HEADS),
            split_heads(self.k(states), self.groups),
            split_heads(self.v(states), self.groups),
        )

    def forward(self, x: Tensor, states: Tensor, **options: Any) -> Tensor:
        given = self.projected(x, states)
        context = nn.functional.scaled_dot_product_attention(*given, enable_gqa=True, **options)
        return self.out(context.transpose(1, 2).flatten(2))

    def expanded(self) -> Grouped:
        """The same attention with a key-value head for every query head."""
        wide = Grouped(HEADS).double()
        wide.load_state_dict(self.state_dict() | {f"k.{n}": self._wide(t) for n, t in self.k.named_parameters()}
                             | {f"v.{n}": self._wide(t) for n, t in self.v.named_parameters()})  # fmt: skip
        return wide

    def _wide(self, weight: Tensor) -> Tensor:
        return (
            weight.detach().unflatten(0, (self.groups, SIZE)).repeat_interleave(HEADS // self.groups, 0).flatten(0, 1)
        )


def adapted_forward(self: Any, x: Tensor, states: Tensor, **options: Any) -> Tensor:
    adapter: Any = attention_adapter(self)
    return adapter(*self.projected(x, states), self.out, **options)


def site(attention: Grouped, kind: Any = "self") -> AttentionSite:
    forwards = [(attention, adapted_forward)]
    return AttentionSite("", kind, attention, HEADS, attention.out, forwards, value_heads=attention.groups)


def attached(attention: Grouped, kind: Any = "self", **fields: Any) -> Attached:
    return attach_p_adapter(attention, {**SETTINGS, **fields}, sites=Sites([site(attention, kind)]))


def inputs(length: int, seed: int = 0) -> Tensor:
    return torch.randn(2, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 2, 3, 6])
def grouped(request: Any) -> Grouped:
    torch.manual_seed(0)
    return Grouped(request.param).double()


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("fields", SWITCHES)
def test_equals_the_expanded_form(grouped: Grouped, kind: str, fields: dict[str, Any]) -> None:
    """Forward, and the gradients of what trains and of the inputs; few tokens and many (two ways to features)."""
    wide = grouped.expanded()
    plain = [module(inputs(5), inputs(5)) for module in (grouped, wide)]
    torch.testing.assert_close(plain[0], plain[1], rtol=0, atol=1e-12)
    pair = [in_training(attached(module, kind, **fields)) for module in (grouped, wide)]
    for length in (3, 9):
        x, states = inputs(length).requires_grad_(), inputs(length, 1).requires_grad_()
        found = []
        for one in pair:
            result = one.model(x, states, is_causal=True)
            wanted = [x, states, *one.parameters()]
            found.append([result, *torch.autograd.grad(result.square().sum(), wanted)])
        assert (found[0][0] - Grouped.forward(grouped, x, states, is_causal=True)).abs().max() > 1e-2
        for ours, theirs in zip(*found, strict=True):
            scale = theirs.detach().abs().max().clamp(min=1)
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fields", SWITCHES[:3])
def test_a_cache_holds_features_beside_the_few_heads(grouped: Grouped, fields: dict[str, Any]) -> None:
    in_training(attached(grouped, **fields))
    adapter: Any = attention_adapter(grouped)
    x = inputs(7)
    query, key, value = grouped.projected(x, x)
    whole = adapter(query, key, value, grouped.out, is_causal=True)
    packed = [adapter.pack(value[:, :, i : i + 1], grouped.out) for i in range(7)]
    bottleneck = WIDTH // SETTINGS["reduction"]
    assert packed[0].shape == (2, grouped.groups, 1, SIZE + bottleneck // grouped.groups)
    for now in range(7):
        stored = torch.cat(packed[: now + 1], 2)
        step = adapter(query[:, :, now : now + 1], key[:, :, : now + 1], stored, grouped.out)
        torch.testing.assert_close(step, whole[:, now : now + 1], rtol=0, atol=1e-12)


def test_step_zero_and_detach(grouped: Grouped) -> None:
    x = inputs(5)
    before = grouped(x, x)
    method = attached(grouped)
    torch.testing.assert_close(grouped(x, x), before, rtol=0, atol=1e-12)
    method.detach()
    assert torch.equal(grouped(x, x), before)


def test_dropout_is_of_every_query_head(grouped: Grouped) -> None:
    in_training(attached(grouped))
    adapter: Any = attention_adapter(grouped)
    given = grouped.projected(inputs(5), inputs(5))
    context, messages = adapter.attend(*given, grouped.out)
    dropped, same = adapter.attend(*given, grouped.out, dropout=0.5)
    torch.testing.assert_close(same, messages)
    assert dropped.shape == context.shape and not torch.allclose(dropped, context)


@pytest.mark.parametrize("groups", [0, 4, 12])
def test_heads_that_do_not_divide_are_refused(groups: int) -> None:
    with pytest.raises(InputError, match=rf"value_heads of \w* ?is {groups}: give a number that divides its 6 heads"):
        replace(site(Grouped(2)), name="attention", value_heads=groups)


@pytest.mark.parametrize("shape", [(2, 3, 5, SIZE), (2, 6, 5, SIZE), (2, 2, 5, SIZE + 1), (2, 2, 5, 2 * SIZE)])
def test_values_of_other_heads_or_width_are_refused(shape: tuple[int, ...]) -> None:
    adapter = PAdapter(WIDTH, HEADS, "self", SETTINGS, dtype=torch.float64, value_heads=2)
    query, key = torch.randn(2, 6, 5, SIZE).double(), torch.randn(2, 2, 5, SIZE).double()
    with pytest.raises(InputError, match=r"must be \[B, 2, Lk, 4\], or 10 wide"):
        adapter(query, key, torch.zeros(shape).double(), nn.Linear(24, WIDTH).double())
