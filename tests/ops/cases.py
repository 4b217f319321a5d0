"""The calls that the tests of every operator go through, as data: a new operator adds an entry to ``CASES``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from tests.ops.draw import Arguments, Case, Draw
from vlmadapt import ops

CACHE = {"queries": 6, "entries": 9, "classes": 4, "width": 5, "text_width": 3}
FEW_WIDE = {"queries": 3, "width": 8}  # what a GPU has a kernel of its own for
LARGE_CACHE = {"queries": 300, "entries": 1700, "classes": 40, "width": 70, "text_width": 33}
CACHE_EMPTY = ("queries", "entries", "width")
TEXT_EMPTY = (*CACHE_EMPTY, "text_width")
RETRIEVAL = importlib.import_module("vlmadapt.ops.cache_retrieval.function")


def similarities_not_kept(**arguments: Any) -> Any:
    with mock.patch.object(RETRIEVAL, "KEPT_BYTES", -1):
        return ops.cache_retrieval(**arguments)


def cache(d: Draw, grad: bool = True) -> Arguments:
    labels = ops.PreparedCache(d.integers(d.entries, d.classes), d.classes)
    return {"queries": d.unit(d.queries, d.width, grad), "keys": d.unit(d.entries, d.width, grad), "labels": labels}


def one_stream(d: Draw) -> Arguments:
    return cache(d) | {"beta": d.positive(d.queries, low=1)}


def raw_labels(d: Draw) -> Arguments:
    return one_stream(d) | {"labels": d.integers(d.entries, d.classes), "num_classes": d.classes}


def two_streams(d: Draw, text_keys: int) -> Arguments:
    return one_stream(d) | {
        "text_queries": d.unit(d.queries, d.text_width),
        "text_keys": d.unit(text_keys, d.text_width),
        "text_beta": d.positive(d.queries, low=1),
        "ratio": d.positive(d.queries),
        "own_entry": d.integers(d.queries, d.entries, low=-1),
        "mask_own_scores": True,
        "return_disagreement": True,
    }


def a_key_an_entry(d: Draw) -> Arguments:
    return two_streams(d, d.entries)


def a_key_a_class(d: Draw) -> Arguments:
    return two_streams(d, d.classes) | {"text_keys_per_class": True}


def values(d: Draw) -> Arguments:
    """In place of labels."""
    return {
        "queries": d.unit(d.queries, d.width),
        "keys": d.unit(d.entries, d.width),
        "values": d.floats(d.entries, d.classes),
        "beta": d.positive(d.queries, low=1),
        "own_entry": d.integers(d.queries, d.entries, low=-1),
        "mask_own_scores": True,
    }


def grid(d: Draw) -> Arguments:
    """Every prediction is right, so that one spoilt by NaN shows."""
    targets = d.integers(d.queries, d.classes)
    base_logits = 1e4 * torch.nn.functional.one_hot(targets, d.classes).to(d.dtype)
    betas, alphas = (d.positive(count, grad=False) for count in (3, 2))
    return cache(d, False) | {"betas": betas, "alphas": alphas, "base_logits": base_logits, "targets": targets}


def retrieval(function: Callable[..., Any], arguments: Callable[[Draw], Arguments], **rest: Any) -> Case:
    empty = TEXT_EMPTY if "text" in str(arguments) else CACHE_EMPTY
    sizes, large = CACHE | rest.pop("sizes", {}), LARGE_CACHE | rest.pop("large", {})
    return Case(function, arguments, sizes, large, rest.pop("empty", empty), **rest)


NODES = {"batch": 2, "heads": 2, "queries": 3, "more": 2, "width": 3, "value_width": 2, "features": 3}
LARGE_NODES = {"batch": 1, "heads": 3, "queries": 200, "more": -70, "width": 16, "value_width": 8, "features": 8}
LARGE_SELF = LARGE_NODES | {"queries": 150, "more": 20}
NODES_EMPTY = ("batch", "queries", "width", "value_width", "features")


def nodes(d: Draw) -> Arguments:
    x_query, x_value = (d.floats(d.batch, d.heads, n, d.features) for n in (d.queries, d.queries + d.more))
    return {
        "x_query": x_query,
        "x_value": x_value,
        "p": d.positive(d.heads, low=1.2),
        "mu": d.positive(d.heads),
    }


def probabilities(d: Draw) -> Arguments:
    attention = d.positive(d.batch, d.heads, d.queries, d.queries + d.more, low=0.01)
    return {"attention": attention} | nodes(d)


def products(d: Draw, float_mask: bool) -> Arguments:
    """The last of several queries sees no key."""
    keys = d.queries + d.more
    query, key = (d.floats(d.batch, d.heads, n, d.width) for n in (d.queries, keys))
    mask = d.floats(d.queries, keys, grad=False) > -1
    mask[:, :1] = True
    mask[1:][-1:] = False
    if float_mask:
        mask = torch.where(mask, d.floats(d.queries, keys, grad=False), -torch.inf)
    return {"query": query, "key": key, "mask": mask, "scale": 0.4}


def scores(d: Draw) -> Arguments:
    keys = d.queries + d.more
    lengths = d.integers(d.batch, keys + 1, low=min(keys, 1))
    value = d.floats(d.batch, d.heads, keys, d.value_width)
    return products(d, True) | nodes(d) | {"value": value, "key_lengths": lengths, "return_lse": True}


def column_sums(d: Draw) -> Arguments:
    lengths = d.integers(d.batch, d.queries + d.more + 1, low=min(d.queries + d.more, 1))
    return products(d, True) | {"key_lengths": lengths}


def self_attention(d: Draw) -> Arguments:
    return products(d, False) | nodes(d) | {"homogeneous": True, "is_causal": True}


def p_laplacian(function: Callable[..., Any], arguments: Callable[[Draw], Arguments], **rest: Any) -> Case:
    large = rest.pop("large", LARGE_NODES)
    return Case(function, arguments, NODES, large, NODES_EMPTY, **rest)


GRAPH = {"targets": 4, "num_sources": 3, "edges": 9, "width": 3}
LARGE_GRAPH = {"targets": 700, "num_sources": 900, "edges": 40_000, "width": 70}
GRAPH_EMPTY = ("targets", "num_sources", "edges", "width")


def graph(d: Draw) -> Arguments:
    """Three relations, two of which share a source."""
    sources = [d.floats(d.num_sources, d.width) for _ in range(2)]
    relations = [d.relation() for _ in range(3)]
    weights = [d.floats(relation.num_edges) for relation in relations]
    arguments: Arguments = {"sources": [*sources, sources[0]], "relations": relations}
    return arguments | {"weights": weights, "coefficients": d.floats(3)}


def dense_graph(d: Draw) -> Arguments:
    given = graph(d)
    matrix = d.floats(d.targets, d.num_sources)
    relations, weights = given["relations"], given["weights"]
    return given | {"relations": [relations[0], matrix, relations[2]], "weights": [weights[0], None, None]}


def rows(d: Draw) -> Arguments:
    offsets = d.relation().row_offsets
    return {
        "row_offsets": offsets,
        "columns": d.integers(int(offsets[-1]), d.num_sources),
        "num_sources": d.num_sources,
    }


def edge_list(d: Draw) -> Arguments:
    targets, sources = d.edges()
    return {"target_index": targets, "source_index": sources, "num_targets": d.targets, "num_sources": d.num_sources}


def aggregation(function: Callable[..., Any], arguments: Callable[[Draw], Arguments], **rest: Any) -> Case:
    return Case(function, arguments, GRAPH, LARGE_GRAPH, GRAPH_EMPTY, **rest)


COSINE = {"rows": 7, "columns": 9, "width": 3, "features": 2}
LARGE_COSINE = {"rows": 400, "columns": 300, "width": 30, "features": 20}
COSINE_EMPTY = ("rows", "columns")


def cosine(d: Draw) -> Arguments:
    return {"targets": d.floats(d.rows, d.width), "sources": d.floats(d.columns, d.width)}


def square_cosine(d: Draw) -> Arguments:
    return {"targets": d.floats(d.rows, d.width), "sources": d.floats(d.rows, d.width), "diagonal": "zero"}


def scaled(d: Draw) -> Arguments:
    scales = {"target_scale": d.positive(d.rows), "source_scale": d.positive(d.rows)}
    return square_cosine(d) | {"features": d.floats(d.rows, d.features), "diagonal": "negate"} | scales


def signed_cosine(function: Callable[..., Any], arguments: Callable[[Draw], Arguments], **rest: Any) -> Case:
    return Case(function, arguments, rest.pop("sizes", COSINE), LARGE_COSINE, COSINE_EMPTY, blas=True, **rest)


def with_options(arguments: Callable[[Draw], Arguments], **options: Any) -> Callable[[Draw], Arguments]:
    return lambda d: arguments(d) | options


# The first case of a function goes through torch.compile.
CASES = {
    "PreparedCache": retrieval(
        ops.PreparedCache, lambda d: {"labels": d.integers(d.entries, d.classes), "num_classes": d.classes}
    ),
    "cache_retrieval, standardised": retrieval(
        ops.cache_retrieval, with_options(a_key_a_class, standardize=True), blas=True
    ),
    "cache_retrieval": retrieval(ops.cache_retrieval, a_key_an_entry),
    "cache_retrieval, a text key a class": retrieval(ops.cache_retrieval, a_key_a_class),
    "cache_retrieval, numbers": retrieval(
        ops.cache_retrieval, with_options(a_key_a_class, beta=2, text_beta=1.5, ratio=0.3)
    ),
    "cache_retrieval, one beta for all": retrieval(
        ops.cache_retrieval, lambda d: a_key_an_entry(d) | {n: d.positive() for n in ("beta", "text_beta", "ratio")}
    ),
    "cache_retrieval, one stream, a number": retrieval(ops.cache_retrieval, with_options(one_stream, beta=2.5)),
    "cache_retrieval, raw labels": retrieval(ops.cache_retrieval, raw_labels),
    "cache_retrieval, few queries": retrieval(
        ops.cache_retrieval,
        with_options(one_stream, beta=2.5),
        sizes=FEW_WIDE,
        large=FEW_WIDE | {"queries": 16, "width": 64},
    ),
    "cache_retrieval, chunked": retrieval(
        ops.cache_retrieval, with_options(a_key_a_class, route="chunked"), blas=True, compiles=False
    ),
    "cache_retrieval, chunked, one stream": retrieval(
        ops.cache_retrieval, with_options(one_stream, beta=2.5, route="chunked"), blas=True, compiles=False
    ),
    "cache_retrieval, not kept": retrieval(similarities_not_kept, a_key_an_entry, compiles=False),
    "cache_retrieval, values": retrieval(ops.cache_retrieval, values, empty=(*CACHE_EMPTY, "classes")),
    "cache_retrieval, values, a number": retrieval(
        ops.cache_retrieval, with_options(values, beta=2.5), empty=(*CACHE_EMPTY, "classes")
    ),
    "cache_retrieval, values, one beta for all": retrieval(
        ops.cache_retrieval, lambda d: values(d) | {"beta": d.positive()}, empty=(*CACHE_EMPTY, "classes")
    ),
    "cache_retrieval, values, standardised": retrieval(
        ops.cache_retrieval, with_options(values, standardize=True), blas=True
    ),
    "cache_retrieval, values, not kept": retrieval(similarities_not_kept, values, compiles=False),
    "cache_retrieval_multi_beta": retrieval(
        ops.cache_retrieval_multi_beta, lambda d: cache(d, False) | {"betas": d.positive(3, grad=False)}
    ),
    "cache_retrieval_grid": retrieval(
        ops.cache_retrieval_grid, grid, shows_nan=lambda results: bool((results[0] < 1).any())
    ),
    "p_laplacian": p_laplacian(ops.p_laplacian, probabilities),
    "p_laplacian, kept loops": p_laplacian(
        ops.p_laplacian, with_options(probabilities, residual="none", self_loops="keep")
    ),
    "p_laplacian_attention": p_laplacian(ops.p_laplacian_attention, scores),
    "p_laplacian_attention, homogeneous": p_laplacian(ops.p_laplacian_attention, self_attention, large=LARGE_SELF),
    "p_laplacian_attention, kept loops": p_laplacian(
        ops.p_laplacian_attention, with_options(scores, self_loops="keep"), blas=True
    ),
    "p_laplacian, degrees": p_laplacian(ops.p_laplacian, with_options(probabilities, degree="paper")),
    "p_laplacian_attention, degrees": p_laplacian(ops.p_laplacian_attention, with_options(scores, degree="paper")),
    "attention_column_sums": p_laplacian(ops.attention_column_sums, column_sums),
    "attention_column_sums, causal": p_laplacian(
        ops.attention_column_sums, lambda d: products(d, False) | {"is_causal": True}, large=LARGE_SELF
    ),
    "attention_probabilities": p_laplacian(
        ops.attention_probabilities,
        lambda d: products(d, True) | {"is_causal": True, "key_lengths": None},
        blas=True,
        twice=True,
        plain=True,
    ),
    "Relation": aggregation(ops.Relation, rows),
    "Relation.from_edges": aggregation(ops.Relation.from_edges, edge_list, compiles=False),
    "hetero_aggregate, dense": aggregation(ops.hetero_aggregate, dense_graph, blas=True),
    "hetero_aggregate": aggregation(ops.hetero_aggregate, graph),
    "hetero_aggregate, as matrices": aggregation(
        ops.hetero_aggregate, with_options(graph, route="dense"), blas=True, twice=True
    ),
    "hetero_aggregate, stacked means": aggregation(
        ops.hetero_aggregate, with_options(graph, output="stacked", reduction="mean")
    ),
    "signed_cosine_degrees": signed_cosine(ops.signed_cosine_degrees, cosine),
    "signed_cosine_top_k": signed_cosine(ops.signed_cosine_top_k, with_options(square_cosine, k=2)),
    "signed_cosine_aggregate": signed_cosine(ops.signed_cosine_aggregate, scaled, twice=True),
    "signed_cosine_aggregate, few rows": signed_cosine(
        ops.signed_cosine_aggregate, scaled, sizes=COSINE | {"rows": 3, "width": 8, "features": 7}, twice=True
    ),
}
