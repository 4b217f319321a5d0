"""HeGraphAdapter against its formula as loops in float64: relations, degrees, messages, classifiers, fusions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.adapters import loops
from tests.adapters.problem import TAU, TokenEncoder, make_problem
from vlmadapt.adapters import HeGraphAdapter
from vlmadapt.adapters.hegraph.graph import KINDS, NEGATIVE, POSITIVE, VISUAL, GraphForm, SignedRelation, prototypes
from vlmadapt.errors import InputError

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-10}
ACTS = {"tanh": math.tanh, "relu": lambda x: max(x, 0.0), "none": lambda x: x}


@pytest.fixture(scope="module")
def problem():
    """Ragged, and class 2 has no picture."""
    made = make_problem(classes=5, shots=3, width=8).without_class(2)
    return replace(made, features=made.features[1:], labels=made.labels[1:])


def rows(tensor):
    return tensor.detach().tolist()


def matrix(values):
    return torch.tensor(values, dtype=torch.float64)


def exact(actual, expected):
    torch.testing.assert_close(actual, matrix(expected), **EXACT)


def make(problem, **config):
    return HeGraphAdapter(problem.text, TAU, config, negative_text_features=problem.negative)


def fitted(problem, **config):
    """Random weights instead of trained ones, so that no message is zero."""
    adapter = make(problem, epochs=0, **config).fit(problem.features, problem.labels)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in (adapter.to_negative, adapter.to_positive, adapter.to_visual):
            layer.weight.copy_(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    order = adapter.support_index
    adapter.support_features = problem.features[order]
    adapter._refresh()
    return adapter


def visual_nodes(problem):
    nodes = []
    for label, text in enumerate(rows(problem.text)):
        own = [row for row, y in zip(rows(problem.features), problem.labels.tolist(), strict=True) if y == label]
        nodes.append(loops.unit([math.fsum(column) / len(own) for column in zip(*own, strict=True)]) if own else text)
    return nodes


def expected_nodes(problem, adapter, of_sources=True, signed=True, act=math.tanh):
    """P', N', the class bias u and the nodes, in loops."""
    p, n, v = rows(problem.text), rows(problem.negative), visual_nodes(problem)
    w_n, w_p, w_v = (rows(layer.weight) for layer in (adapter.to_negative, adapter.to_positive, adapter.to_visual))
    negate = "negate" if signed else "keep"

    def message(targets, sources, diagonal, matrix, features=None, own_term=True):
        relation = loops.signed_relation(targets, sources, diagonal)
        inputs = loops.message_input(relation, targets, features or sources, of_sources, own_term)
        return loops.messages(inputs, matrix, act)

    n_new = loops.combine(n, (0.5, message(n, p, negate, w_n)), (0.5, message(n, v, negate, w_n)))
    m_np = message(p, n, negate, w_p, features=n_new)
    m_pp, m_vp = message(p, p, "zero", w_p), message(p, v, "keep", w_p)
    bias = message(v, v, "zero", w_v, own_term=False)
    return p, (m_pp, m_vp, m_np), bias


def text_nodes(p, parts, negative_scale):
    m_pp, m_vp, m_np = parts
    return loops.combine(p, (0.06, m_pp), (0.24, m_vp), (negative_scale, m_np))


def scores_of(query, problem, bias, beta):
    scores = [0.0] * len(problem.text)
    for feature, label in zip(rows(problem.features), problem.labels.tolist(), strict=True):
        biased = [x + 0.5 * u for x, u in zip(feature, bias[label], strict=True)]
        scores[label] += math.exp(beta * (loops.cosine(query, biased) - 1))
    return scores


def test_visual_nodes_are_class_means_and_a_class_without_pictures_has_its_text(problem):
    exact(prototypes(problem.features, problem.labels, problem.text), visual_nodes(problem))


def test_visual_node_of_pictures_that_cancel_is_the_text(problem):
    pictures = torch.stack([problem.text[0], -problem.text[0]])
    assert torch.equal(prototypes(pictures, torch.tensor([0, 0]), problem.text), problem.text)


@pytest.mark.parametrize("form", ["dense", "factorised", "sparse"])
@pytest.mark.parametrize("degree", ["source", "target"])
@pytest.mark.parametrize("name", list(KINDS))
def test_relations_degrees_and_aggregates(problem, name, degree, form):
    nodes = {POSITIVE: rows(problem.text), NEGATIVE: rows(problem.negative), VISUAL: visual_nodes(problem)}
    kind = KINDS[name]
    targets, sources = nodes[kind.target], nodes[kind.source]
    expected = loops.signed_relation(targets, sources, kind.diagonal)
    relation = SignedRelation(matrix(targets), matrix(sources), kind.diagonal, GraphForm(form, top_k=5, degree=degree))
    degrees, columns = loops.degrees(expected, True)
    exact(relation.row_degree, degrees)
    exact(relation.column_degree, columns)
    aggregate = relation.aggregate(matrix(sources))
    if kind.own_term:
        aggregate = aggregate + relation.own(matrix(targets))
    exact(aggregate, loops.message_input(expected, targets, sources, degree == "source", kind.own_term))


def test_diagonals_of_the_six_relations():
    assert {name: kind.diagonal for name, kind in KINDS.items()} == {
        "pn": "negate",
        "vn": "negate",
        "np": "negate",
        "vp": "keep",
        "pp": "zero",
        "vv": "zero",
    }


def test_sparse_keeps_the_strongest_relations_and_their_signs(problem):
    relation = SignedRelation(problem.text, problem.negative, "negate", GraphForm("sparse", top_k=2))
    dense = loops.signed_relation(rows(problem.text), rows(problem.negative), "negate")
    kept = [sorted(range(5), key=lambda j: -abs(row[j]))[:2] for row in dense]
    pruned = [[r if j in kept[i] else 0.0 for j, r in enumerate(row)] for i, row in enumerate(dense)]
    exact(
        relation.own(problem.text) + relation.aggregate(problem.negative),
        loops.message_input(pruned, rows(problem.text), rows(problem.negative)),
    )


@pytest.mark.parametrize("activation", list(ACTS))
@pytest.mark.parametrize("diagonal", ["signed", "plain"])
@pytest.mark.parametrize("degree", ["source", "target"])
@pytest.mark.parametrize("graph", ["dense", "factorised"])
def test_messages_nodes_and_keys(problem, graph, degree, diagonal, activation):
    adapter = fitted(problem, graph=graph, degree=degree, diagonal=diagonal, activation=activation)
    p, parts, bias = expected_nodes(problem, adapter, degree == "source", diagonal == "signed", ACTS[activation])
    updates = adapter.updates()
    exact(updates.negative, parts[2])
    exact(updates.bias, bias)
    exact(adapter.text_nodes, text_nodes(p, parts, 0.1))
    exact(adapter.adapted_text(updates, 1.0, 0.2), text_nodes(p, parts, 0.2))
    keys = [
        loops.unit([x + 0.5 * u for x, u in zip(feature, bias[label], strict=True)])
        for feature, label in zip(rows(problem.features), problem.labels.tolist(), strict=True)
    ]
    exact(adapter.keys, [keys[i] for i in adapter.support_index.tolist()])


@pytest.mark.parametrize("fusion", ["probability", "logit"])
def test_classifiers_and_fusions(problem, fusion):
    adapter = fitted(problem, fusion=fusion, w=0.7, alpha=3.0, beta=1.0)
    p, parts, bias = expected_nodes(problem, adapter)
    nodes = text_nodes(p, parts, 0.1)
    for query, probabilities in zip(rows(problem.queries), adapter.predict_proba(problem.queries), strict=True):
        text = [TAU * loops.cosine(query, node) for node in nodes]
        scores = scores_of(query, problem, bias, 1.0)
        if fusion == "logit":
            expected = loops.softmax([a + 3.0 * b for a, b in zip(text, scores, strict=True)])
        else:
            visual = loops.softmax([TAU * score for score in scores])
            expected = [(a + 0.7 * b) / 1.7 for a, b in zip(loops.softmax(text), visual, strict=True)]
        exact(probabilities, expected)


def test_loss_is_that_of_both_classifiers(problem):
    adapter = fitted(problem, leave_one_out=False)
    p, parts, bias = expected_nodes(problem, adapter)
    nodes = text_nodes(p, parts, 0.2)
    losses = []
    for feature, label in zip(rows(problem.features), problem.labels.tolist(), strict=True):
        text = [TAU * loops.cosine(feature, node) for node in nodes]
        visual = [TAU * score for score in scores_of(feature, problem, bias, 1.0)]
        losses.append(-loops.log_softmax_at(text, label) - 0.1 * loops.log_softmax_at(visual, label))
    order = adapter.support_index
    support = adapter._samples("features", problem.features, "labels", problem.labels)
    assert torch.equal(support.position, order)
    loss = adapter._loss(support, torch.arange(len(order)))
    assert float(loss.detach()) == pytest.approx(math.fsum(losses) / len(losses), abs=1e-10)


def test_before_training_it_is_zero_shot_beside_an_untrained_cache(problem):
    adapter = make(problem, epochs=0, fusion="logit", alpha=2.0).fit(problem.features, problem.labels)
    for query, logits in zip(rows(problem.queries), adapter.logits(problem.queries), strict=True):
        scores = scores_of(query, problem, [[0.0] * 8] * 5, 1.0)
        exact(logits, [TAU * loops.dot(query, t) + 2.0 * s for t, s in zip(rows(problem.text), scores, strict=True)])


@pytest.mark.parametrize("graph", ["dense", "factorised", "sparse"])
def test_gradients(problem, graph):
    adapter = fitted(problem, graph=graph, top_k=3)

    def nodes(w_n, w_p, w_v):
        weights = {"to_negative.weight": w_n, "to_positive.weight": w_p, "to_visual.weight": w_v}
        return torch.func.functional_call(Nodes(adapter), {f"adapter.{name}": w for name, w in weights.items()}, ())

    class Nodes(torch.nn.Module):
        def __init__(self, adapter):
            super().__init__()
            self.adapter = adapter

        def forward(self):
            updates = self.adapter.updates()
            return self.adapter.adapted_text(updates, 1.0, 0.2), self.adapter.adapted_keys(updates)

    layers = (adapter.to_negative, adapter.to_positive, adapter.to_visual)
    assert torch.autograd.gradcheck(nodes, [layer.weight.detach().clone().requires_grad_() for layer in layers])


def test_only_the_three_maps_are_trained(problem):
    adapter = make(problem, epochs=3).fit(problem.features, problem.labels)
    assert sorted(name for name, _ in adapter.named_parameters()) == [
        "to_negative.weight",
        "to_positive.weight",
        "to_visual.weight",
    ]
    assert all(float(weight.detach().abs().max()) > 0 for weight in adapter.parameters())


def test_an_isolated_node_keeps_its_own_message():
    """A positive node at right angles to every source of a relation gets act(x_i W^T) from it, all of its own term.

    Its class bias, which has no own term, is zero.
    """
    eye = torch.eye(6, dtype=torch.float64)
    text, negative = eye[[0, 1]], eye[[2, 3]]
    pictures = eye[[4, 5]]
    adapter = HeGraphAdapter(text, TAU, {"epochs": 0}, negative_text_features=negative).fit(
        pictures, torch.tensor([0, 1])
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.copy_(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    own_p = torch.tanh(text @ adapter.to_positive.weight.T)
    updates = adapter.updates()
    torch.testing.assert_close(updates.fixed, 0.3 * own_p, **EXACT)
    torch.testing.assert_close(updates.bias, torch.zeros_like(text), **EXACT)
    # The updated negative nodes are sources of m_np: relations are those of the frozen ones, so it stays isolated.
    torch.testing.assert_close(updates.negative, own_p, **EXACT)


def test_without_edges_every_node_keeps_its_own_message(problem):
    adapter = fitted(problem, graph="none")
    own = torch.tanh(problem.text @ adapter.to_positive.weight.T)
    torch.testing.assert_close(adapter.updates().negative, own, **EXACT)
    torch.testing.assert_close(adapter.updates().fixed, 0.3 * own, **EXACT)


@pytest.mark.parametrize(
    ("config", "relations"),
    [
        ({"negative_to_positive": 0.0, "negative_to_positive_test": 0.0}, {"vp", "pp", "vv"}),
        ({"visual_to_negative": 0.0, "visual_to_positive": 0.0, "visual_bias": 0.0}, {"pn", "np", "pp"}),
    ],
)
def test_a_coefficient_of_zero_takes_a_relation_out(problem, config, relations):
    adapter = make(problem, epochs=2, **config).fit(*problem.fit_arguments)
    assert set(adapter.graph.relations) == relations
    assert bool(torch.isfinite(adapter.logits(problem.queries)).all())


def test_many_classes_hold_no_square_matrix():
    problem = make_problem(classes=1100, shots=1, width=8)
    adapter = make(problem, epochs=1, search_beta=(1, 4, 2), search_alpha=(1, 4, 2), search_w=(1, 4, 2))
    adapter.fit(problem.features, problem.labels)
    assert {relation.form for relation in adapter.graph.relations.values()} == {"factorised"}
    assert all(relation.structure is None for relation in adapter.graph.relations.values())


class TestNegatives:
    def test_missing_is_one_sentence(self, problem):
        with pytest.raises(InputError, match=r"negative_text_features is missing: hegraph needs .*\.$"):
            HeGraphAdapter(problem.text, TAU)

    def test_an_encoder_and_names_make_them(self, problem):
        encoder = TokenEncoder(problem.text)
        names = [f"class {number}" for number in range(5)]
        adapter = HeGraphAdapter(problem.text, TAU, class_names=names, encoder=encoder)
        expected = encoder.encode_texts([f"a photo of no {name}." for name in names])
        torch.testing.assert_close(adapter.negative_text_features, expected, **EXACT)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda n: n[:3], "for 5 classes: give one row a class"),
            (lambda n: n[:, :4], "4 wide but text_features is 8 wide"),
            (lambda n: n * float("nan"), "negative_text_features holds NaN"),
        ],
    )
    def test_bad_ones_are_named(self, problem, change, sentence):
        with pytest.raises(InputError, match=sentence):
            HeGraphAdapter(problem.text, TAU, negative_text_features=change(problem.negative))
