"""Offsets beyond 32 bits through torch: a few keys of huge sparse tensors count, as if they were all there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ops.draw import generator
from tests.sparse import linux, sparse_zeros
from vlmadapt.ops import p_laplacian_attention

LONG, SEEN = 2**31, 3
pytestmark = pytest.mark.skipif("config.getoption('--device') != 'cpu'", reason="sparse pages are of the CPU's memory")


def results_and_gradients(inputs: dict[str, Any], fixed: dict[str, Any]) -> list[Tensor]:
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    result = p_laplacian_attention(**inputs, **fixed, mu=0.2, return_lse=True)
    outputs = [x for x in result if x is not None]
    terms = [(x.float() * torch.randn(x.shape, generator=generator(1))).sum() for x in outputs]
    loss = torch.stack(terms).sum()
    return [*outputs, *torch.autograd.grad(loss, list(inputs.values()))]


@linux
def test_keys_and_values() -> None:
    batch, keys, wide = 2**13 + 1, 2**8, 2**10
    assert (batch - 1) * keys * wide == LONG

    def rows(count: int, width: int) -> Tensor:
        return (torch.randn(batch, 1, count, width, generator=generator(count)) / width**0.5).half()

    x_value = rows(keys, 2)
    few = {name: rows(SEEN, wide) for name in ("key", "value")}
    many = {name: torch.from_numpy(sparse_zeros((batch, 1, keys, wide), np.float16)) for name in few}
    for name, tensor in many.items():
        tensor[:, :, :SEEN] = few[name]
    inputs = {"query": rows(1, wide), "x_query": rows(1, 2), "p": torch.tensor(1.5)}
    lengths = {"key_lengths": torch.full((batch,), SEEN)}
    ours = results_and_gradients(inputs, many | lengths | {"x_value": x_value})
    expected = results_and_gradients(inputs, few | {"x_value": x_value[:, :, :SEEN]})
    for x, wanted in zip(ours, expected, strict=True):
        assert torch.isfinite(wanted).all() and torch.equal(x, wanted)


@linux
def test_strides_of_the_mask() -> None:
    line = torch.from_numpy(sparse_zeros((3 * (LONG + 64) + 5,), np.bool_))
    mask = line.as_strided((4, 5), (LONG + 64, 1))
    mask[:] = torch.rand(4, 5, generator=generator(0)) > 0.3
    mask[:, 0] = True
    sizes = {"query": 4, "key": 5, "value": 5, "x_query": 4, "x_value": 5}
    inputs = {name: torch.randn(2, 3, rows, 6, generator=generator(2)) for name, rows in sizes.items()}
    inputs["p"] = torch.tensor(1.5)
    ours, expected = (results_and_gradients(inputs, {"mask": each}) for each in (mask, mask.clone()))
    for x, wanted in zip(ours, expected, strict=True):
        assert torch.equal(x, wanted)
