"""The p-adapter written out in loops, float64: the truth of its tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.adapters.loops import dot, matvec
from vlmadapt.generative.methods.p_adapter import PAdapter


def adapted_attention(
    adapter: PAdapter,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Any,
    p: float,
    mu: float,
    attended: Tensor | None = None,
) -> Tensor:
    """[B, Lq, D] of projected query [B, H, Lq, e], key and value [B, H, Lk, e]; attended: bool [B, Lq, Lk]."""
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    config = adapter.config
    d = adapter.down.out_features // heads
    homogeneous = adapter.kind == "self" and config.self_attention == "homogeneous"
    rows = []
    for b in range(batch):
        x_value = [linear(adapter.down, linear(output, joined(value, b, j))) for j in range(keys)]
        for i in range(queries):
            here = i + keys - queries
            x_query = x_value[here] if homogeneous else linear(adapter.down, linear(output, joined(query, b, i)))
            context, messages = [], []
            for h in range(heads):
                seen = [j for j in range(keys) if attended is None or bool(attended[b, i, j])]
                weights = softmax(
                    [dot(query[b, h, i].tolist(), key[b, h, j].tolist()) / math.sqrt(width) for j in seen]
                )
                probability = [0.0] * keys
                for j, weight in zip(seen, weights, strict=True):
                    probability[j] = weight
                context += [sum(probability[j] * float(value[b, h, j, c]) for j in range(keys)) for c in range(width)]
                of_head = [x[h * d : (h + 1) * d] for x in x_value]
                itself = here if homogeneous else None
                if adapter.kind == "cross" and config.key_pooling != "none":
                    probability, of_head = pooled(probability, of_head, config.key_pooling, config.pooled_keys)
                pull = config.residual == "query" or (config.residual == "self-only" and adapter.kind == "self")
                x_i = x_query[h * d : (h + 1) * d]
                home = x_i if pull else [0.0] * d
                eps = config.eps if config.self_loops == "keep" else None
                messages += message(probability, x_i, of_head, home, p, mu, itself, eps)
            hidden = linear(output, context)
            gates = [gelu(gate) for gate in linear(adapter.gate, hidden)]
            added = linear(adapter.up, [gate * text for gate, text in zip(gates, messages, strict=True)])
            rows.append([old + new for old, new in zip(hidden, added, strict=True)])
    return torch.tensor(rows, dtype=torch.float64).view(batch, queries, -1)


def message(
    probability: list[float],
    x_query: list[float],
    x_values: list[list[float]],
    home: list[float],
    p: float,
    mu: float,
    itself: int | None,
    eps: float | None,
) -> list[float]:
    """One row and head of ``(sum_j M_ij x_vj + (2 mu / p) r_i) / (sum_j M_ij + 2 mu / p)``."""
    total, summed = 2 * mu / p, [2 * mu / p * r for r in home]
    for j, a in enumerate(probability):
        if a == 0 or (eps is None and j == itself):
            continue
        difference = [math.sqrt(a) * (q - v) + (eps or 0) for q, v in zip(x_query, x_values[j], strict=True)]
        length = math.sqrt(sum(x * x for x in difference))
        if length == 0:
            if p == 2:
                weight = a
            else:
                continue
        else:
            weight = a * length ** (p - 2)
        total += weight
        summed = [s + weight * v for s, v in zip(summed, x_values[j], strict=True)]
    return [s / total for s in summed]


def pooled(
    probability: list[float], x: list[list[float]], how: str, number: int
) -> tuple[list[float], list[list[float]]]:
    keys = len(x)
    if how == "mean":
        groups: list[Sequence[int]] = [range(g * keys // number, -(-(g + 1) * keys // number)) for g in range(number)]
    else:
        number = min(number, keys)
        groups = [[j for j in range(keys) if j * number // keys == g] for g in range(number)]
    means = [[sum(x[j][c] for j in group) / len(group) for c in range(len(x[0]))] for group in groups]
    sums = [sum(probability[j] for j in group) for group in groups]
    if how == "mean":
        sums = [total / len(group) for total, group in zip(sums, groups, strict=True)]
    return sums, means


def linear(layer: Any, x: list[float]) -> list[float]:
    weight, bias = layer.weight.tolist(), layer.bias
    added = [0.0] * len(weight) if bias is None else bias.tolist()
    return [y + b for y, b in zip(matvec(weight, x), added, strict=True)]


def joined(x: Tensor, b: int, i: int) -> list[float]:
    """All heads of token i beside each other."""
    return [float(value) for h in range(x.shape[1]) for value in x[b, h, i]]


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
