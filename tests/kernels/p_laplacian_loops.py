"""p-Laplacian attention and its gradients pair by pair in float64: the truth for the raw kernels.

``given`` holds float64 arrays by the names of ``csrc/p_laplacian/kernel.h``, the mask expanded to every pair;
``switches`` are fields of its ``Problem``. The forward takes complex arrays too: imaginary parts carry derivatives.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Head:
    """The rows of one head of one sample."""

    def __init__(self, given: Arrays, switches: Mapping[str, Any], batch: int, head: int) -> None:
        self.rows = {name: x[batch, head] for name, x in given.items() if x.ndim > 2}
        self.p, self.pull = given["p"][head], given["pull"][head]
        self.switches = switches
        self.x_query, self.x_value = self.rows["x_query"], self.rows["x_value"]
        self.queries, self.keys = len(self.x_query), len(self.x_value)
        lengths = given.get("key_lengths")
        self.length = self.keys if lengths is None else int(lengths[batch])
        self.coincidence = switches["coincidence"]
        self.attention: np.ndarray
        self.lse: np.ndarray | None
        self.attention, self.lse = self._probabilities() if "query" in given else (self.rows["attention"], None)

    def _probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        query, key, mask = self.rows["query"], self.rows["key"], self.rows.get("mask")
        attention = np.zeros((self.queries, self.keys), query.dtype)
        lse = np.full(self.queries, -np.inf, query.dtype)
        for i in range(self.queries):
            scores = {}
            for j in range(self.keys):
                if j >= self.length or (self.switches["causal"] and j > i + self.keys - self.queries):
                    continue
                shift = 0.0 if mask is None else mask[i, j]
                if mask is not None and mask.dtype == bool:
                    shift = 0.0 if mask[i, j] else -np.inf
                if shift != -np.inf:
                    scores[j] = self.switches["scale"] * query[i] @ key[j] + shift
            if scores:
                most = max(s.real for s in scores.values())
                lse[i] = most + np.log(sum(np.exp(s - most) for s in scores.values()))
                for j, s in scores.items():
                    attention[i, j] = np.exp(s - lse[i])
        return attention, lse

    def pairs(self, i: int) -> Iterator[tuple[int, Any, np.ndarray, Any]]:
        """(j, A, the vector whose square is Q, M) of every pair of query i that is not dropped."""
        for j in range(self.keys):
            a, away = self.attention[i, j], self.x_query[i] - self.x_value[j]
            if a == 0:
                continue
            if self.switches["released"]:
                away = np.sqrt(a) * away + self.switches["eps"]
            else:
                if self.switches["drop_diagonal"] and j == i + self.keys - self.queries:
                    continue
                if (away @ away).real < self.coincidence:
                    if self.p.real == 2:
                        yield j, a, np.zeros_like(away), a
                    continue
                away = np.sqrt(a) * away
            yield j, a, away, a * (away @ away) ** ((self.p - 2) / 2)

    def home(self, i: int) -> np.ndarray:
        return self.x_query[i] if self.switches["residual"] else np.zeros_like(self.x_query[i])

    def row(self, i: int) -> tuple[np.ndarray, Any]:
        """``out`` and ``row_sum`` of query i."""
        total, moved = 0.0, np.zeros_like(self.x_query[i])
        for j, _, _, weight in self.pairs(i):
            total, moved = total + weight, moved + weight * self.x_value[j]
        if total + self.pull == 0:
            return self.home(i), total
        return (moved + self.pull * self.home(i)) / (total + self.pull), total


def heads_of(given: Arrays, switches: Mapping[str, Any]) -> Iterator[tuple[int, int, Head]]:
    for batch, head in itertools.product(*map(range, given["x_query"].shape[:2])):
        yield batch, head, Head(given, switches, batch, head)


def forward(given: Arrays, switches: Mapping[str, Any]) -> dict[str, np.ndarray]:
    x = given["x_query"]
    out, row_sum, lse = np.zeros_like(x), np.zeros(x.shape[:3], x.dtype), np.zeros(x.shape[:3], x.dtype)
    results = {"out": out, "row_sum": row_sum}
    if "query" in given:
        results["lse"] = lse
    if "value" in given:
        results["context"] = np.zeros((*x.shape[:3], given["value"].shape[3]), x.dtype)
    for b, h, head in heads_of(given, switches):
        for i in range(head.queries):
            out[b, h, i], row_sum[b, h, i] = head.row(i)
            if head.lse is not None:
                lse[b, h, i] = head.lse[i]
            if "value" in given:
                for j in range(head.keys):
                    results["context"][b, h, i] += head.attention[i, j] * head.rows["value"][j]
    return results


def backward(given: Arrays, switches: Mapping[str, Any], upstream: Arrays) -> dict[str, np.ndarray]:
    """Gradients of the sum of ``upstream["grad_NAME"]`` times result NAME, by the chain rule pair by pair."""
    names = [
        name for name in ("attention", "query", "key", "value", "x_query", "x_value", "p", "pull") if name in given
    ]
    grads = {name: np.zeros_like(given[name]) for name in names}
    for b, h, head in heads_of(given, switches):
        for i in range(head.queries):
            of_attention = _features(head, i, upstream["grad_out"][b, h, i], grads, b, h)
            if "value" in given:
                of_context = upstream["grad_context"][b, h, i]
                for j in range(head.keys):
                    of_attention[j] += of_context @ head.rows["value"][j]
                    grads["value"][b, h, j] += head.attention[i, j] * of_context
            if "attention" in given:
                grads["attention"][b, h, i] = of_attention
                continue
            mean = head.attention[i] @ of_attention
            for j in range(head.keys):
                of_score = head.attention[i, j] * (of_attention[j] - mean + upstream["grad_lse"][b, h, i])
                grads["query"][b, h, i] += switches["scale"] * of_score * head.rows["key"][j]
                grads["key"][b, h, j] += switches["scale"] * of_score * head.rows["query"][i]
    return grads


def _features(head: Head, i: int, grad_out: np.ndarray, grads: dict[str, np.ndarray], b: int, h: int) -> np.ndarray:
    """Adds what flows from out[i] to features, p and pull; returns what flows to the attention of its pairs."""
    out, row_sum = head.row(i)
    total, residual = row_sum + head.pull, head.switches["residual"]
    of_attention = np.zeros(head.keys)
    if total == 0:
        grads["x_query"][b, h, i] += grad_out if residual else 0
        return of_attention
    grads["x_query"][b, h, i] += head.pull / total * grad_out if residual else 0
    grads["pull"][h] += grad_out @ (head.home(i) - out) / total
    for j, a, away, weight in head.pairs(i):
        of_weight = grad_out @ (head.x_value[j] - out) / total
        squared = away @ away
        grads["x_value"][b, h, j] += weight * grad_out / total
        if squared == 0:  # coincident features at p = 2: a constant weight
            of_attention[j] = of_weight
            continue
        of_square = of_weight * weight * (head.p - 2) / 2 / squared
        through = 2 * of_square * np.sqrt(a) * away
        grads["x_query"][b, h, i] += through
        grads["x_value"][b, h, j] -= through
        grads["p"][h] += of_weight * weight * np.log(squared) / 2
        of_attention[j] = of_weight * weight / a + of_square * away @ (head.x_query[i] - head.x_value[j]) / np.sqrt(a)
    return of_attention
