"""Prefix tuning: the attention written out, and what sees what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.generative.tiny import tiny_blip
from vlmadapt.generative.methods.peers import LoRAConfig
from vlmadapt.generative.methods.prefix import Prefix
from vlmadapt.generative.methods.registry import attach, make_config

BATCH, HEADS, GROUPS, QUERIES, KEYS, WIDTH, LENGTH = 2, 4, 2, 3, 5, 6, 7


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def written_out(prefix: Prefix, query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """One query after the other; ``seen`` bool [B, Lq, Lk]."""
    batch, heads, queries, _ = query.shape
    rows = torch.zeros(batch, queries, heads, value.shape[-1], dtype=query.dtype)
    for b in range(batch):
        for h in range(heads):
            group = h // (heads // key.shape[1])
            for q in range(queries):
                keys = torch.cat([prefix.keys[h], key[b, group][seen[b, q]]])
                values = torch.cat([prefix.values[h], value[b, group][seen[b, q]]])
                rows[b, q, h] = (scale * keys @ query[b, h, q]).softmax(0) @ values
    return rows.flatten(2)


@pytest.mark.parametrize("groups", [HEADS, GROUPS])
@pytest.mark.parametrize("how", ["all", "bool", "added", "causal"])
def test_the_context_is_attention_to_prefix_and_keys(how: str, groups: int) -> None:
    prefix = Prefix(LENGTH, HEADS, WIDTH, torch.float64, torch.Generator().manual_seed(0))
    nn.init.normal_(prefix.keys)
    nn.init.normal_(prefix.values)
    keys = QUERIES if how == "causal" else KEYS
    query, key, value = drawn(BATCH, HEADS, QUERIES, WIDTH), *(drawn(BATCH, groups, keys, WIDTH) for _ in range(2))
    seen = torch.ones(BATCH, QUERIES, keys, dtype=torch.bool)
    options: dict[str, Any] = {"scale": 0.4}
    if how == "causal":
        seen, options["is_causal"] = seen.tril(), True
    elif how != "all":
        seen[1, :, :2] = False
        seen[0, 1] = False  # sees the prefix only
        mask = seen[:, None]
        options["mask"] = mask if how == "bool" else torch.zeros(mask.shape).double().masked_fill(~mask, -torch.inf)
    context, nothing = prefix.attend(query, key, value, nn.Identity(), **options)
    torch.testing.assert_close(context, written_out(prefix, query, key, value, seen, 0.4))
    assert nothing is None


def test_rank_stabilised_updates_are_scaled_by_the_root_of_the_rank() -> None:
    scale = {"lora": 6 / 4, "rslora": 6 / 2}
    for method, wanted in scale.items():
        config = make_config(method, "vqa", {"rank": 4, "alpha": 6.0})
        assert isinstance(config, LoRAConfig) and config.rank_stabilized == (method == "rslora")
        attached = attach(tiny_blip("BlipForQuestionAnswering"), method, config)
        found = {value for module in attached.model.modules() for value in getattr(module, "scaling", {}).values()}
        assert found == {wanted}
