"""Each method against its formula, written as loops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.adapters import loops
from tests.adapters.problem import TAU, make_problem
from vlmadapt.adapters import CLIPAdapter, LinearProbe, TaskRes, TipAdapter, TipAdapterF, XMAdapter, ZeroShot
from vlmadapt.adapters.xm.adapter import hard_sample_weights
from vlmadapt.training import accuracy, log_grid

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(scope="module")
def problem():
    return make_problem()


def rows(tensor):
    return tensor.detach().tolist()


def test_zero_shot(problem):
    expected = [[TAU * loops.dot(query, row) for row in rows(problem.text)] for query in rows(problem.queries)]
    torch.testing.assert_close(
        ZeroShot(problem.text, TAU).logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT
    )


def test_features_are_normalised_on_the_way_in(problem):
    adapter = TipAdapter(3.0 * problem.text, TAU).fit(0.1 * problem.features, problem.labels)
    plain = TipAdapter(problem.text, TAU).fit(problem.features, problem.labels)
    torch.testing.assert_close(adapter.logits(7.0 * problem.queries), plain.logits(problem.queries), **EXACT)


@pytest.mark.parametrize(("beta", "alpha"), [(5.5, 1.0), (0.7, 12.0), (30.0, 0.0)])
def test_tip_adapter_is_its_formula(problem, beta, alpha):
    adapter = TipAdapter(problem.text, TAU, {"beta": beta, "alpha": alpha}).fit(problem.features, problem.labels)
    expected = [
        loops.tip_logits(query, rows(problem.text), rows(problem.features), problem.labels.tolist(), TAU, beta, alpha)
        for query in rows(problem.queries)
    ]
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_tip_adapter_search_finds_the_best_smoothed_cell(problem):
    config = {"search_beta": (0.5, 8.0, 4), "search_alpha": (0.1, 10.0, 5)}
    adapter = TipAdapter(problem.text, TAU, config).fit(*problem.fit_arguments)
    ranges = [adapter.searched(name) for name in config]  # which were widened where the best lay on an edge
    betas, alphas = (log_grid(*searched).tolist() for searched in ranges)
    hits, likelihood = {}, {}
    for g, beta in enumerate(betas):
        for a, alpha in enumerate(alphas):
            hits[g, a], likelihood[g, a] = 0, 0.0
            for query, label in zip(rows(problem.val_features), problem.val_labels.tolist(), strict=True):
                logits = loops.tip_logits(
                    query, rows(problem.text), rows(problem.features), problem.labels.tolist(), TAU, beta, alpha
                )
                hits[g, a] += logits.index(max(logits)) == label
                likelihood[g, a] += loops.log_softmax_at(logits, label)

    def around(g, a):
        last = len(betas) - 1, len(alphas) - 1
        near = [(min(max(g + i, 0), last[0]), min(max(a + j, 0), last[1])) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return sum(hits[cell] for cell in near)

    g, a = max(hits, key=lambda cell: (around(*cell), likelihood[cell]))
    assert adapter.hyperparameters() == pytest.approx({"beta": betas[g], "alpha": alphas[a]})


def test_a_value_on_the_edge_of_its_search_is_told(problem):
    wide = TipAdapter(problem.text, TAU, {"search_beta": (1.0, 2.0, 2), "search_alpha": (1e-3, 1e3, 9)})
    assert wide.fit(*problem.fit_arguments).at_edges() == {"beta": "search_beta"}
    assert wide.fit(problem.features, problem.labels).at_edges() == {}
    one = TipAdapter(problem.text, TAU, {"search_beta": (2.0, 2.0, 1), "search_alpha": (1e-3, 1e3, 9)})
    assert one.fit(*problem.fit_arguments).at_edges() == {}


def test_tip_adapter_f_starts_as_tip_adapter_and_trains_only_the_keys(problem):
    plain = TipAdapter(problem.text, TAU).fit(problem.features, problem.labels)
    start = TipAdapterF(problem.text, TAU, {"epochs": 0}).fit(problem.features, problem.labels)
    assert torch.equal(start.logits(problem.queries), plain.logits(problem.queries))
    assert [name for name, _ in start.named_parameters()] == ["keys"]
    trained = TipAdapterF(problem.text, TAU, {"epochs": 5, "lr": 0.01}).fit(problem.features, problem.labels)
    norms = trained.keys.detach().norm(dim=-1)
    assert float((norms - 1).abs().max()) > 1e-3  # not re-normalised
    expected = [
        loops.tip_logits(query, rows(problem.text), rows(trained.keys), trained.labels.tolist(), TAU, 5.5, 1.0)
        for query in rows(problem.queries)
    ]
    torch.testing.assert_close(trained.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_clip_adapter_is_its_formula(problem):
    adapter = CLIPAdapter(problem.text, TAU, {"epochs": 2, "ratio": 0.3}).fit(problem.features, problem.labels)
    down, up = rows(adapter.down.weight), rows(adapter.up.weight)
    assert (len(down), len(up)) == (6, 24)
    expected = []
    for query in rows(problem.queries):
        hidden = [max(value, 0.0) for value in loops.matvec(down, query)]
        adapted = [max(value, 0.0) for value in loops.matvec(up, hidden)]
        blended = loops.unit([0.3 * new + 0.7 * old for new, old in zip(adapted, query, strict=True)])
        expected.append([TAU * loops.dot(blended, row) for row in rows(problem.text)])
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_task_res_is_its_formula(problem):
    start = TaskRes(problem.text, TAU, {"epochs": 0}).fit(problem.features, problem.labels)
    torch.testing.assert_close(start.logits(problem.queries), TAU * problem.queries @ problem.text.T, **EXACT)
    adapter = TaskRes(problem.text, TAU, {"epochs": 3, "lr": 0.1}).fit(problem.features, problem.labels)
    assert float(adapter.residual.detach().abs().max()) > 0.01
    expected = []
    for query in rows(problem.queries):
        logits = []
        for text, residual in zip(rows(problem.text), rows(adapter.residual), strict=True):
            logits.append(
                TAU * loops.dot(query, loops.unit([t + 0.5 * r for t, r in zip(text, residual, strict=True)]))
            )
        expected.append(logits)
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("classes", [2, 5])
def test_linear_probe_is_at_the_minimum_of_its_objective(classes):
    problem = make_problem(classes=classes)
    adapter = LinearProbe(problem.text, TAU, {"c": 5.0, "tolerance": 1e-8}).fit(problem.features, problem.labels)
    weight = adapter.weight.detach().clone().requires_grad_()
    bias = adapter.bias.detach().clone().requires_grad_()
    losses = torch.nn.functional.cross_entropy(problem.features @ weight.T + bias, problem.labels, reduction="sum")
    # scikit-learn penalises the one row of a two-class problem: the difference of our two.
    penalty = (weight[1] - weight[0]).square().sum() if classes == 2 else weight.square().sum()
    (losses + penalty / 10.0).backward()
    assert weight.grad is not None and bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-4
    assert float(bias.grad.abs().max()) < 1e-4


def xm(problem, **config):
    return XMAdapter(problem.text, TAU, {"epochs": 0, **config})


@pytest.mark.parametrize("fusion", ["learned", "fixed", "per_sample"])
def test_xm_adapter_starts_as_the_training_free_method(problem, fusion):
    """Identity maps: g = f and G_T = W; gamma is the configured one for every query."""
    config = {"gamma": 0.6, "beta_image": 4.0, "beta_text": 2.0, "alpha": 1.5, "fusion": fusion}
    adapter = xm(problem, **config).fit(problem.features, problem.labels)
    expected = []
    for query in rows(problem.queries):
        logits = [TAU * loops.dot(query, row) for row in rows(problem.text)]
        image, text = loops.xm_affinities(
            query, query, rows(problem.features), rows(problem.text), problem.labels.tolist(), 4.0, 2.0
        )
        for a_img, a_txt, label in zip(image, text, problem.labels.tolist(), strict=True):
            logits[label] += 1.5 * (0.6 * a_img + 0.4 * a_txt)
        expected.append(logits)
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("config", [{}, {"hidden_width": 7}, {"mlp_width": 5}, {"fusion": "per_sample"}])
def test_trained_xm_adapter_is_its_formula(problem, config):
    config = {"epochs": 3, "lr": 0.01, "batch_size": 8, **config}
    adapter = xm(problem, **config).fit(problem.features, problem.labels)
    values = adapter.hyperparameters()
    text_queries, text_keys = adapter.streams(problem.queries)
    labels = adapter.labels.tolist()
    expected = []
    for query, text_query in zip(rows(problem.queries), rows(text_queries), strict=True):
        gamma = values.get("gamma")
        if gamma is None:
            gate = loops.dot(rows(adapter.gate.weight)[0], [*query, *text_query])
            gamma = 1 / (1 + math.exp(-gate - float(adapter.gamma_logit.detach())))
        logits = [TAU * loops.dot(query, row) for row in rows(problem.text)]
        image, text = loops.xm_affinities(
            query, text_query, rows(adapter.keys), rows(text_keys), labels, values["beta_image"], values["beta_text"]
        )
        for a_img, a_txt, label in zip(image, text, labels, strict=True):
            logits[label] += values["alpha"] * (gamma * a_img + (1 - gamma) * a_txt)
        expected.append(logits)
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_xm_adapter_projections(problem):
    adapter = xm(problem, epochs=2, lr=0.01).fit(problem.features, problem.labels)
    weight, bias = rows(adapter.img2txt_net.linear.weight), rows(adapter.img2txt_net.linear.bias)
    query = rows(problem.queries)[0]
    expected = loops.unit([value + shift for value, shift in zip(loops.matvec(weight, query), bias, strict=True)])
    torch.testing.assert_close(
        adapter.streams(problem.queries[:1])[0][0], torch.tensor(expected, dtype=torch.float64), **EXACT
    )


def test_narrow_xm_adapter_starts_from_one_orthogonal_map(problem):
    adapter = xm(problem, hidden_width=7).fit(problem.features, problem.labels)
    weight = adapter.meta_net.linear.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(7, dtype=torch.float64), **EXACT)
    assert torch.equal(weight, adapter.img2txt_net.linear.weight)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_hard_mining_loss_is_its_formula(problem, leave_one_out):
    adapter = xm(problem, hardness=2.0, leave_one_out=leave_one_out, alpha=3.0)
    support = adapter._samples("features", problem.features, "labels", problem.labels)
    adapter.fit(problem.features, problem.labels)
    indices = [0, 3, 7, 11, 19]
    keys, labels = rows(support.features), support.labels.tolist()
    deltas, losses = [], []
    for index in indices:
        image, text = loops.xm_affinities(keys[index], keys[index], keys, rows(problem.text), labels, 5.5, 5.5)
        others = [k for k in range(len(keys)) if k != index]
        deltas.append(math.fsum(abs(image[k] - text[k]) for k in others) / len(others))
        logits = [TAU * loops.dot(keys[index], row) for row in rows(problem.text)]
        for k in others if leave_one_out else range(len(keys)):
            logits[labels[k]] += 3.0 * (0.7 * image[k] + 0.3 * text[k])
        losses.append(-loops.log_softmax_at(logits, labels[index]))
    span = max(deltas) - min(deltas)
    weights = [1 + 2.0 * (delta - min(deltas)) / span for delta in deltas]
    expected = math.fsum(w * loss for w, loss in zip(weights, losses, strict=True)) / math.fsum(weights)
    assert float(adapter._loss(support, torch.tensor(indices)).detach()) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("adapter", [TipAdapterF, XMAdapter])
def test_the_only_entry_of_a_class_is_not_hidden(adapter):
    """At one shot leave-one-out would train on empty columns; it changes nothing there."""
    problem = make_problem(shots=1)
    mining = {"hard_mining": False} if adapter is XMAdapter else {}
    fits = [
        adapter(problem.text, TAU, {"epochs": 2, "leave_one_out": flag, **mining}).fit(problem.features, problem.labels)
        for flag in (False, True)
    ]
    torch.testing.assert_close(fits[0].logits(problem.queries), fits[1].logits(problem.queries), **EXACT)


@pytest.mark.parametrize("hidden", [False, True])
def test_tip_adapter_f_loss_with_and_without_the_own_entry(problem, hidden):
    adapter = TipAdapterF(problem.text, TAU, {"epochs": 0, "leave_one_out": hidden})
    support = adapter._samples("features", problem.features, "labels", problem.labels)
    adapter.fit(problem.features, problem.labels)
    keys, labels, losses = rows(support.features), support.labels.tolist(), []
    for index in (2, 9, 13):
        seen = [k for k in range(len(keys)) if not (hidden and k == index)]
        logits = loops.tip_logits(
            keys[index], rows(problem.text), [keys[k] for k in seen], [labels[k] for k in seen], TAU, 5.5, 1.0
        )
        losses.append(-loops.log_softmax_at(logits, labels[index]))
    loss = float(adapter._loss(support, torch.tensor([2, 9, 13])).detach())
    assert loss == pytest.approx(math.fsum(losses) / 3, abs=1e-10)


def test_hard_sample_weights_have_no_gradient_and_survive_equal_samples():
    delta = torch.tensor([0.1, 0.3, 0.2], requires_grad=True)
    weights = hard_sample_weights(delta, 1.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 1.5]))
    assert not weights.requires_grad
    assert hard_sample_weights(torch.tensor([0.2, 0.2]), 1.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("option", [{"hard_mining": False}, {"standardize": True, "beta_image": 1.0, "beta_text": 1.0}])
def test_options_change_the_training(problem, option):
    base = {"epochs": 3, "batch_size": 8, "lr": 0.01}
    plain = xm(problem, **base).fit(problem.features, problem.labels)
    other = xm(problem, **base, **option).fit(problem.features, problem.labels)
    assert bool(torch.isfinite(other.logits(problem.queries)).all())
    assert not torch.equal(plain.logits(problem.queries), other.logits(problem.queries))


def test_search_does_no_worse_on_validation_than_the_defaults(problem):
    for adapter in (TipAdapter, XMAdapter):
        config = {} if adapter is TipAdapter else {"epochs": 0}
        default = adapter(problem.text, TAU, config).fit(problem.features, problem.labels)
        searched = adapter(problem.text, TAU, config).fit(*problem.fit_arguments)
        before = accuracy(default.logits(problem.val_features), problem.val_labels)
        after = accuracy(searched.logits(problem.val_features), problem.val_labels)
        assert after >= before


def test_votes_are_the_entries_of_the_affinity(problem):
    adapter = TipAdapter(problem.text, TAU).fit(problem.features, problem.labels)
    query = rows(problem.queries)[4]
    affinity = [math.exp(-5.5 * (1 - loops.dot(query, key))) for key in rows(problem.features)]
    labels = problem.labels.tolist()
    for vote in adapter.explain(problem.queries[4:5], top=6)[0]:
        assert vote.affinity == pytest.approx(affinity[vote.support_index], rel=1e-10)
        total = math.fsum(a for a, label in zip(affinity, labels, strict=True) if label == vote.label)
        assert vote.class_share == pytest.approx(vote.affinity / total, rel=1e-10)
        assert vote.stream == "image"


def test_xm_votes_name_the_stronger_stream(problem):
    flat = {"beta_image": 1.0, "beta_text": 1.0}
    mostly_text = xm(problem, gamma=0.02, **flat).fit(problem.features, problem.labels).explain(problem.queries[:2])
    mostly_image = xm(problem, gamma=0.98, **flat).fit(problem.features, problem.labels).explain(problem.queries[:2])
    assert {vote.stream for votes in mostly_text for vote in votes} == {"text"}
    assert {vote.stream for votes in mostly_image for vote in votes} == {"image"}
