"""GDA, NCM, ProKeR, SS-Text, ZS-LP and CLAP against their formulas, written as loops in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.adapters import loops
from tests.adapters.problem import TAU, make_problem
from vlmadapt.adapters import CLAP, GDA, NCM, ZSLP, ProKeR, SSText, create_adapter
from vlmadapt.adapters import proker as module
from vlmadapt.adapters.proker import conjugate_gradients

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-9}


@pytest.fixture(scope="module")
def problem():
    return make_problem(width=10)


def rows(tensor):
    return tensor.detach().tolist()


def zero_shot(problem, query):
    return [TAU * loops.dot(query, row) for row in rows(problem.text)]


def test_gda(problem):
    adapter = GDA(problem.text, TAU, {"alpha": 0.3}).fit(problem.features, problem.labels)
    expected = []
    for query in rows(problem.queries):
        scores = loops.gda_scores(query, rows(problem.features), problem.labels.tolist(), 5)
        expected.append([base + 0.3 * score for base, score in zip(zero_shot(problem, query), scores, strict=True)])
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_gda_of_one_sample_a_class_compares_with_class_means():
    problem = make_problem(shots=1)
    adapter = GDA(problem.text, TAU, {"alpha": 1.0}).fit(problem.features, problem.labels)
    order = adapter.logits(problem.queries) - TAU * problem.queries @ problem.text.T
    means = problem.features[problem.labels.argsort()]
    expected = problem.queries @ means.T - 0.5 * means.square().sum(-1)
    width, spread = problem.features.shape[1], (problem.features - problem.features.mean(0)).square().sum() / 4
    torch.testing.assert_close(order, width / spread * expected, **EXACT)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("centre", [True, False])
def test_ncm(problem, centre, text):
    adapter = NCM(problem.text, TAU, {"alpha": 0.7, "centre": centre, "text": text})
    adapter.fit(problem.features, problem.labels)
    samples, labels = rows(problem.features), problem.labels.tolist()
    middle = [0.0] * 10
    if centre:
        middle = [sum(column) / 5 for column in zip(*loops.means_of_classes(samples, labels, 5), strict=True)]

    def moved(row):
        return loops.unit([x - m for x, m in zip(row, middle, strict=True)]) if centre else row

    means = loops.means_of_classes([moved(row) for row in samples], labels, 5)
    expected = []
    for query in rows(problem.queries):
        base = zero_shot(problem, query) if text else [0.0] * 5
        near = [loops.dot(moved(query), mean) - loops.dot(mean, mean) / 2 for mean in means]
        expected.append([b + 0.7 * TAU * value for b, value in zip(base, near, strict=True)])
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_without_text_the_nearest_mean_wins(problem):
    adapter = NCM(problem.text, TAU, {"centre": False, "text": False}).fit(problem.features, problem.labels)
    means = torch.stack([problem.features[problem.labels == c].mean(0) for c in range(5)])
    assert torch.equal(adapter.predict(problem.queries), torch.cdist(problem.queries, means).argmin(-1))


@pytest.mark.parametrize(("beta", "lam"), [(5.0, 0.3), (1.0, 4.0), (20.0, 0.01)])
def test_proker(problem, beta, lam):
    adapter = ProKeR(problem.text, TAU, {"beta": beta, "lam": lam}).fit(problem.features, problem.labels)
    labels = problem.labels.tolist()
    expected = [
        loops.proker_logits(query, rows(problem.text), rows(problem.features), labels, TAU, beta, lam)
        for query in rows(problem.queries)
    ]
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_proker_by_conjugate_gradients_is_the_direct_solution(problem, monkeypatch):
    direct = ProKeR(problem.text, TAU).fit(*problem.fit_arguments)
    monkeypatch.setattr(module, "DIRECT", 3)
    monkeypatch.setattr(module, "TOLERANCE", 1e-12)
    iterated = ProKeR(problem.text, TAU).fit(*problem.fit_arguments)
    assert iterated.hyperparameters() == direct.hyperparameters()
    torch.testing.assert_close(iterated.logits(problem.queries), direct.logits(problem.queries), rtol=1e-8, atol=1e-8)


def test_conjugate_gradients_keep_columns_that_have_arrived():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(12)
    wanted = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    wanted[:, 1] = 0
    found = conjugate_gradients(lambda x: matrix @ x, wanted)
    assert bool((found[:, 1] == 0).all())
    torch.testing.assert_close(matrix @ found, wanted, rtol=1e-4, atol=1e-4)


def test_lam_leads_from_zero_shot_to_unsolved_residuals(problem):
    base = TAU * problem.queries @ problem.text.T
    near = ProKeR(problem.text, TAU, {"lam": 1e-9}).fit(problem.features, problem.labels)
    torch.testing.assert_close(near.logits(problem.queries), base, rtol=0, atol=1e-5)
    far = ProKeR(problem.text, TAU, {"lam": 1e9}).fit(problem.features, problem.labels)
    residuals = torch.eye(5, dtype=torch.float64)[problem.labels] - problem.features @ problem.text.T
    kernel = torch.exp(5.0 * (problem.queries @ problem.features.T - 1))
    torch.testing.assert_close(far.logits(problem.queries), base + TAU * kernel @ residuals, rtol=1e-6, atol=1e-6)


def test_ss_text(problem):
    adapter = SSText(problem.text, TAU).fit(problem.features, problem.labels)
    expected = []
    for c in range(5):
        own = [row for row, label in zip(rows(problem.features), problem.labels.tolist(), strict=True) if label == c]
        factor = TAU / (len(problem.labels) * (1 / len(own)))
        text = rows(problem.text)[c]
        expected.append(
            loops.unit([t + factor * sum(column) for t, column in zip(text, zip(*own, strict=True), strict=True)])
        )
    logits = [[TAU * loops.dot(query, row) for row in expected] for query in rows(problem.queries)]
    torch.testing.assert_close(adapter.logits(problem.queries), torch.tensor(logits, dtype=torch.float64), **EXACT)


def test_a_probe_starts_as_zero_shot(problem):
    for kind in (ZSLP, CLAP):
        adapter = kind(problem.text, TAU, {"epochs": 0}).fit(problem.features, problem.labels)
        torch.testing.assert_close(
            adapter.logits(problem.queries), TAU * problem.queries @ problem.text.T, rtol=1e-12, atol=1e-12
        )


def test_the_loss_of_clap(problem):
    adapter = CLAP(problem.text, TAU, {"epochs": 0}).fit(problem.features, problem.labels)
    with torch.no_grad():
        adapter.weight.add_(0.1 * torch.arange(50, dtype=torch.float64).view(5, 10).cos())
    strengths: list[float] = []
    loss = 0.0
    weight = rows(adapter.weight)
    for c in range(5):
        own = [row for row, label in zip(rows(problem.features), problem.labels.tolist(), strict=True) if label == c]
        strengths.append(sum(loops.softmax(zero_shot(problem, row))[c] for row in own) / len(own))
    for row, label in zip(rows(problem.features), problem.labels.tolist(), strict=True):
        logits = [TAU * loops.dot(row, loops.unit(w)) for w in weight]
        loss -= loops.log_softmax_at(logits, label) / len(problem.labels)
    for strength, w, t in zip(strengths, weight, rows(problem.text), strict=True):
        loss += strength * sum((a - b) ** 2 for a, b in zip(w, t, strict=True)) / 5
    samples = adapter._samples("features", problem.features, "labels", problem.labels)
    assert float(adapter._loss(samples, torch.arange(len(problem.labels))).detach()) == pytest.approx(loss, rel=1e-10)


@pytest.mark.parametrize("name", ["gda", "ncm"])
def test_a_class_without_samples_is_neither_favoured_nor_hurt(name, problem):
    ragged = problem.without_class(2)
    adapter = create_adapter(name, problem.text, TAU).fit(ragged.features, ragged.labels)
    extra = adapter.logits(problem.queries) - TAU * problem.queries @ problem.text.T
    others = extra[:, [0, 1, 3, 4]]
    torch.testing.assert_close(extra[:, 2], others.mean(-1), rtol=1e-8, atol=1e-8)
