"""The graph view: which relations and pairs it finds, and that the picture shows them."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from tests.adapters.problem import TAU, make_problem
from vlmadapt.adapters import HeGraphAdapter, TipAdapter
from vlmadapt.adapters.hegraph.graph import NEGATIVE, POSITIVE, VISUAL
from vlmadapt.adapters.hegraph.view import (
    Edge,
    PulledPair,
    load_graph,
    pick_classes,
    pulled_apart,
    relation_matrices,
    strongest_edges,
    used_relations,
)
from vlmadapt.errors import FileError, InputError
from vlmadapt.reporting.graph_picture import COLOURS, draw_graph
from vlmadapt.reporting.report.relations import relations_section

NAMES = ["ant", "bee", "cat", "dog $5", "emu 果物"]


@pytest.fixture(scope="module")
def adapter():
    problem = make_problem()
    made = HeGraphAdapter(problem.text, TAU, {"epochs": 5}, class_names=NAMES, negative_text_features=problem.negative)
    return made.fit(problem.features, problem.labels)


def test_edges_are_the_strongest_of_each_kind_with_their_signs(adapter):
    edges = strongest_edges(adapter, [0, 2, 3, 4], top=3)
    for name in ("pn", "vn", "vp", "pp", "vv"):
        between = [edge for edge in edges if edge.relation == name and edge.source != edge.target]
        source, target = (adapter.graph.nodes[kind] for kind in between[0].kinds)
        cosines = torch.nn.functional.normalize(target, dim=-1) @ torch.nn.functional.normalize(source, dim=-1).T
        others = [
            float(cosines[i, j])
            for i in (0, 2, 3, 4)
            for j in (0, 2, 3, 4)
            if (i < j if name in ("pp", "vv") else i != j)
        ]
        expected = sorted(others, key=abs, reverse=True)[:3]
        assert [edge.weight for edge in between] == pytest.approx(expected)
        assert all(edge.weight == pytest.approx(float(cosines[edge.target, edge.source])) for edge in between)
    own = [edge for edge in edges if edge.source == edge.target]
    assert {edge.relation for edge in own} == {"pn", "vn", "vp"}
    for edge in own:
        source, target = (adapter.graph.nodes[kind][edge.source] for kind in edge.kinds)
        cosine = float(torch.nn.functional.cosine_similarity(source, target, dim=0))
        assert edge.weight == pytest.approx(cosine if edge.relation == "vp" else -cosine)
    assert not any(edge.relation == "np" for edge in edges)


def test_pairs_are_those_whose_centred_cosine_falls_most(adapter):
    updates = adapter.updates()
    cosines = []
    for scale in (0.0, 0.1):
        nodes = torch.nn.functional.normalize(adapter.adapted_text(updates, 1.0, scale), dim=-1)
        centred = torch.nn.functional.normalize(nodes - nodes.mean(0), dim=-1)
        cosines.append((centred @ centred.T).detach())
    change = {(i, j): float(cosines[1][i, j] - cosines[0][i, j]) for i in range(5) for j in range(i + 1, 5)}
    expected = sorted(change, key=lambda pair: change[pair])[:4]
    pairs = pulled_apart(adapter, 4)
    assert [(pair.first, pair.second) for pair in pairs] == expected
    assert [pair.change for pair in pairs] == pytest.approx([change[pair] for pair in expected])
    assert pairs[0].without == pytest.approx(float(cosines[0][expected[0]]))


def test_tiles_give_the_same_pairs(adapter, monkeypatch):
    whole = pulled_apart(adapter, 10)
    monkeypatch.setattr("vlmadapt.adapters.hegraph.view.CLASSES_AT_ONCE", 2)
    tiled = pulled_apart(adapter, 10)
    assert [(pair.first, pair.second) for pair in tiled] == [(pair.first, pair.second) for pair in whole]
    falling = pulled_apart(adapter, 100)
    assert 1 < len(falling) < 10 and all(pair.change < 0 for pair in falling)  # of all pairs of five classes


@pytest.mark.parametrize(
    ("text_scale", "negative_scale", "shown"),
    [(1.0, 0.0, {"vp", "pp", "vv"}), (0.0, 0.1, {"pn", "vn", "vv"}), (0.0, 0.0, {"vv"})],
)
def test_what_validation_switched_off_is_not_shown(adapter, text_scale, negative_scale, shown):
    own = copy.deepcopy(adapter)
    own.set_scalars(own.fusion, text_scale, negative_scale)
    assert {edge.relation for edge in strongest_edges(own, range(5), 4)} == shown
    assert bool(pulled_apart(own, 4)) == bool(negative_scale)


def test_pairs_are_as_far_apart_as_the_classifier_has_them(adapter):
    own = copy.deepcopy(adapter)
    changes = []
    for scale in (0.05, 0.4):
        own.set_scalars(own.fusion, 1.0, scale)
        changes.append(pulled_apart(own, 1)[0].change)
    assert changes[1] < 2 * changes[0] < 0


def test_without_negative_nodes_there_is_one_sentence():
    problem = make_problem()
    config = {"epochs": 0, "negative_to_positive": 0.0, "negative_to_positive_test": 0.0}
    adapter = HeGraphAdapter(problem.text, TAU, config, negative_text_features=problem.negative)
    adapter.fit(problem.features, problem.labels)
    with pytest.raises(InputError, match="fitted without messages of negative nodes"):
        pulled_apart(adapter, 3)


def test_classes_by_name(adapter):
    pairs = [PulledPair(1, 4, 0.5, 0.4), PulledPair(1, 2, 0.5, 0.45)]
    assert pick_classes(NAMES, ["cat", "ant", "cat"]) == [2, 0]
    assert pick_classes(NAMES, None, pairs) == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="there is no class 'cta': did you mean 'cat'"):
        pick_classes(NAMES, ["cta", "ant"])
    with pytest.raises(InputError, match="--classes names 1 classes"):
        pick_classes(NAMES, ["ant"])


def test_another_adapter_has_no_graph(tmp_path):
    problem = make_problem()
    TipAdapter(problem.text, TAU).fit(problem.features, problem.labels).save(tmp_path)
    with pytest.raises(InputError, match="holds a tip-adapter adapter, which has no graph"):
        load_graph(tmp_path)


def pixels_of(path, colour):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - ImageColor.getrgb(colour)).sum(-1) < 12).sum())


def test_picture_shows_every_kind_of_node_in_its_colour(adapter, tmp_path):
    path = draw_graph(
        NAMES, range(5), strongest_edges(adapter, range(5), 4), pulled_apart(adapter, 4), "title $1", tmp_path / "g.png"
    )
    assert all(pixels_of(path, COLOURS[node]) > 300 for node in (POSITIVE, NEGATIVE, VISUAL))
    bare = draw_graph(NAMES, [0, 1], [], [], "two", tmp_path / "bare.png")
    assert pixels_of(bare, COLOURS[POSITIVE]) > 100


def test_sign_is_the_line_style(tmp_path):
    """A dashed line inks less than a solid one of the same strength."""
    paths = [
        draw_graph(NAMES, [0, 1], [Edge("vp", 0, 1, sign * 0.5)], [], "x", tmp_path / f"{sign}.png") for sign in (1, -1)
    ]
    inked = [int((np.asarray(Image.open(path).convert("L")) < 250).sum()) for path in paths]
    assert inked[1] < inked[0] - 200


def test_svg_and_bad_places(adapter, tmp_path):
    path = draw_graph(NAMES, range(3), strongest_edges(adapter, range(3), 2), [], "x", tmp_path / "g.svg")
    assert path.read_text(encoding="utf-8").lstrip().startswith("<?xml")
    with pytest.raises(InputError, match=r"name a \.png or \.svg file"):
        draw_graph(NAMES, range(3), [], [], "x", tmp_path / "g.pdf")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        draw_graph(NAMES, range(3), [], [], "x", tmp_path / "file" / "g.png")


def test_matrices_hold_every_relation_in_one_order(adapter):
    matrices = relation_matrices(adapter, most=60)
    assert {one.relation for one in matrices} == used_relations(adapter) - {"np"}
    for one in matrices:
        assert sorted(one.classes) == list(range(5)) and list(one.classes) == list(matrices[0].classes)
        target, source = adapter.graph.nodes[one.target], adapter.graph.nodes[one.source]
        for i, to in enumerate(one.classes):
            for j, start in enumerate(one.classes):
                cosine = torch.nn.functional.cosine_similarity(target[to], source[start], dim=0)
                assert float(one.weights[i, j]) == pytest.approx(0.0 if to == start else float(cosine), abs=1e-6)


def test_of_many_classes_the_most_related_are_in_the_matrices(adapter, monkeypatch):
    monkeypatch.setattr("vlmadapt.adapters.hegraph.view.CLASSES_AT_ONCE", 2)
    whole = relation_matrices(adapter, most=60)[0]
    strength = {label: float(whole.weights[place].abs().max()) for place, label in enumerate(whole.classes)}
    few = relation_matrices(adapter, most=3)[0]
    assert set(few.classes) == set(sorted(strength, key=lambda label: -strength[label])[:3])


def test_related_classes_stand_side_by_side(adapter, monkeypatch):
    """Two groups that are alike within and not between, in turn."""
    angle = torch.tensor([0.0, 1.5, 0.1, 1.6, 0.2])
    nodes = torch.stack([angle.cos(), angle.sin()], 1)
    graph = SimpleNamespace(nodes=dict.fromkeys((POSITIVE, NEGATIVE, VISUAL), nodes), relations={"pp", "vp"})
    monkeypatch.setattr(HeGraphAdapter, "graph", graph)
    groups = [label % 2 for label in relation_matrices(adapter, most=60)[0].classes]
    assert sum(a != b for a, b in itertools.pairwise(groups)) == 1


def test_the_report_has_them_of_an_adapter_with_a_graph_alone(adapter, tmp_path):
    adapter.save(tmp_path / "graph")
    section = relations_section(tmp_path / "graph")
    assert section is not None
    [chart] = section.charts
    assert len(chart.figures) == len(used_relations(adapter)) - 1
    assert [row[0] for row in chart.table.rows] != [] and set(row[0] for row in chart.table.rows) == set(NAMES)
    problem = make_problem()
    plain = TipAdapter(problem.text, TAU, class_names=NAMES).fit(problem.features, problem.labels)
    plain.save(tmp_path / "plain")
    assert relations_section(tmp_path / "plain") is None
