"""Views of a picture as samples: nothing tells a picture by its other views, and without views nothing changes."""

import math
from dataclasses import replace

import pytest
import torch

from tests.adapters.problem import TAU, make_problem
from tests.adapters.test_battery import make
from vlmadapt.adapters import (
    ADAPTERS,
    TipAdapter,
    TipAdapterF,
    XMAdapter,
    XMAdapterConfig,
    create_adapter,
    load_adapter,
)
from vlmadapt.adapters.folds import splits, together
from vlmadapt.adapters.reweight import TEMPERATURE, agreement
from vlmadapt.adapters.views import ViewsConfig, shares, spread
from vlmadapt.errors import InputError
from vlmadapt.training import Samples

NAMES = [name for name, kind in ADAPTERS.items() if issubclass(kind.config_class, ViewsConfig)]
CACHES = ["tip-adapter", "tip-adapter-f", "xmadapter", "hegraph"]


@pytest.fixture(scope="module")
def problem():
    return make_problem(shots=4)


def with_views(features, count=3, noise=0.1):
    """``[n, count, D]``: each row as it is and some near it."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(len(features), count, features.shape[1], dtype=torch.float64, generator=generator)
    drawn[:, 0] = 0
    return torch.nn.functional.normalize(features.unsqueeze(1) + noise * drawn.to(features), dim=-1)


def test_which_methods_have_the_option():
    assert set(NAMES) == {*CACHES, "gda", "proker"}


@pytest.mark.parametrize("on_all", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_one_view_each_is_what_was_before(name, on_all, problem):
    def fitted(features, val_features, **settings):
        adapter = make(name, problem, **settings)
        fit = adapter.fit_on_all if on_all else adapter.fit
        return fit(features, problem.labels, val_features, problem.val_labels, **({"repeats": 1} if on_all else {}))

    before = fitted(problem.features, problem.val_features)
    after = fitted(problem.features.unsqueeze(1), problem.val_features.unsqueeze(1), each_view=True)
    torch.testing.assert_close(after.logits(problem.queries), before.logits(problem.queries), rtol=1e-6, atol=1e-6)
    assert after.hyperparameters() == pytest.approx(before.hyperparameters(), rel=1e-6)


@pytest.mark.parametrize("name", ["tip-adapter", "gda"])
def test_a_picture_has_one_vote_however_often_it_is_shown(name, problem):
    settings = {"alpha": 2.0}
    before = make(name, problem, **settings).fit(problem.features, problem.labels)
    copies = problem.features.unsqueeze(1).expand(-1, 5, -1)
    after = make(name, problem, each_view=True, **settings).fit(copies, problem.labels)
    if name == "tip-adapter":
        torch.testing.assert_close(after.logits(problem.queries), before.logits(problem.queries), rtol=1e-9, atol=1e-9)
    else:  # whose covariance divides by one less than the samples
        assert torch.equal(after.predict(problem.queries), before.predict(problem.queries))


@pytest.mark.parametrize("name", NAMES)
def test_every_view_is_learned_from(name, problem, tmp_path):
    views = with_views(problem.features)
    adapter = make(name, problem, each_view=True).fit(views, problem.labels, problem.val_features, problem.val_labels)
    alone = make(name, problem).fit(*problem.fit_arguments)
    assert not torch.allclose(adapter.logits(problem.queries), alone.logits(problem.queries))
    if name in (*CACHES, "proker"):
        assert len(adapter.keys) == 3 * len(problem.labels)
    loaded = load_adapter(adapter.save(tmp_path))
    assert torch.equal(loaded.predict_proba(problem.queries), adapter.predict_proba(problem.queries))


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_order_of_pictures_nor_of_further_views_changes_a_bit(name, problem):
    views = with_views(problem.features)
    shuffled = torch.randperm(len(views), generator=torch.Generator().manual_seed(1))
    rest = problem.val_features, problem.val_labels
    one = make(name, problem, each_view=True).fit(views, problem.labels, *rest)
    other = make(name, problem, each_view=True).fit(
        views[shuffled][:, torch.tensor([0, 2, 1])], problem.labels[shuffled], *rest
    )
    assert torch.equal(one.logits(problem.queries), other.logits(problem.queries))


def hidden_by_loops(queries, keys, support, indices, beta):
    """Scores ``[B, 5]`` where query ``indices[b]`` sees no view of its picture, of which there are three."""
    pictures, labels = support.position, support.labels
    scores = torch.zeros(len(indices), 5, dtype=torch.float64)
    for row, index in enumerate(indices.tolist()):
        for k in range(len(keys)):
            if pictures[k] != pictures[index]:
                scores[row, labels[k]] += math.exp(beta * (float(queries[row] @ keys[k]) - 1)) / 3
    return scores


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_hides_all_views_of_the_own_picture(problem, dtype):
    views = with_views(problem.features).to(dtype)
    narrow = replace(problem, text=problem.text.to(dtype))
    adapter = make("tip-adapter-f", narrow, each_view=True, epochs=1).fit(views, problem.labels)
    support = spread(adapter._samples("features", views, "labels", problem.labels))
    indices = torch.tensor([0, 7, 30, 31, 59])
    own = adapter._own_entries(indices)
    assert torch.equal(own, indices)  # every class has four pictures
    for beta in (0.5, 5.5, 32.0):
        scores = adapter._scores(support.features[indices], adapter.keys.detach(), beta, own)
        queries, keys = support.features[indices].double(), adapter.keys.detach().double()
        expected = hidden_by_loops(queries, keys, support, indices, beta)
        torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-7)
    alone = XMAdapter(narrow.text, TAU, {"each_view": True, "epochs": 1}).fit(views, problem.labels)
    for ratio in (0.0, 1.0):
        scores, disagreement = alone._retrieve(
            support.features[indices], alone._cache(), ratio=ratio, beta_image=5.5, own_entry=own, mask_own_scores=True
        )
        queries, keys = support.features[indices], alone.keys
        if ratio == 0.0:
            queries, text = alone.streams(queries)
            keys = text[alone.labels]
        beta = 5.5 if ratio else float(alone.log_beta_text.detach().exp())
        expected = hidden_by_loops(queries.detach().double(), keys.detach().double(), support, indices, beta)
        torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-7)
        assert bool(torch.isfinite(disagreement).all())


@pytest.mark.parametrize("name", ["tip-adapter-f", "xmadapter", "hegraph"])
def test_no_gradient_comes_from_views_of_the_own_picture(name, problem):
    """A picture's views weigh on the loss of others only."""
    adapter = make(name, problem, each_view=True, epochs=1).fit(with_views(problem.features), problem.labels)
    support = spread(adapter._samples("features", with_views(problem.features), "labels", problem.labels))
    index = torch.tensor([4])
    keys = adapter.keys.detach().clone().requires_grad_()
    adapter._scores(support.features[index], keys, 2.0, adapter._own_entries(index)).sum().backward()
    own = support.position == support.position[4]
    assert int(own.sum()) == 3 and not bool(keys.grad[own].any()) and bool(keys.grad[~own].any())


def test_the_only_picture_of_a_class_sees_itself(problem):
    one = torch.stack([torch.nonzero(problem.labels == label)[0, 0] for label in range(5)])
    views = with_views(problem.features[one])
    adapter = make("tip-adapter-f", problem, each_view=True, epochs=2).fit(views, problem.labels[one])
    assert adapter._own_entries(torch.arange(15)).tolist() == [-1] * 15


@pytest.mark.parametrize("name", NAMES)
def test_no_fold_holds_a_view_of_a_known_picture(name, monkeypatch):
    """Every view of a picture is the same: a fold that knew one would be right about labels that mean nothing."""
    problem = make_problem(classes=4, shots=12)
    noise = torch.randint(4, (48,), generator=torch.Generator().manual_seed(0))
    copies = problem.features.unsqueeze(1).expand(-1, 3, -1)
    kind, seen = ADAPTERS[name], []
    fit = kind._fit

    def watched(self, support, validation, options):
        if validation is not None:
            seen.append(1)
            known = {row.numpy().tobytes() for row in support.features}
            assert support.views is None and len(support) == 3 * len(known)
            assert not known & {row.numpy().tobytes() for row in validation.features}
        fit(self, support, validation, options)

    monkeypatch.setattr(kind, "_fit", watched)
    adapter = make(name, replace(problem, text=torch.ones_like(problem.text)), each_view=True)
    adapter.fit_on_all(copies, noise, repeats=1)
    assert seen and len(adapter.certainties_) == 48 and (adapter.held_out_accuracy_ or 0) < 0.5


def test_folds_are_those_of_pictures(problem):
    support = Samples.of(problem.features, problem.labels, with_views(problem.features)[:, 1:])
    for known, held in splits(support.features, support.labels, 4, 1, seed=0):
        learned = spread(support.rows(known))
        assert not set(learned.position.tolist()) & set(support.rows(held).position.tolist())
        assert len(learned) == 3 * len(known)


def test_votes_are_of_pictures(problem):
    views = with_views(problem.features)
    adapter = make("tip-adapter", problem, each_view=True, beta=3.0).fit(views, problem.labels)
    votes = adapter.explain(problem.queries[:2], top=100)
    for query, row in zip(problem.queries, votes, strict=False):
        assert sorted(vote.support_index for vote in row) == list(range(len(problem.labels)))
        for vote in row:
            expected = torch.exp(3.0 * (views[vote.support_index] @ query - 1)).mean()
            assert vote.label == problem.labels[vote.support_index]
            assert vote.affinity == pytest.approx(float(expected))
        assert sum(vote.class_share for vote in row) == pytest.approx(5.0)
    assert all(
        len(row) == 5
        for row in make("xmadapter", problem, each_view=True)
        .fit(views, problem.labels)
        .explain(problem.queries[:2], top=5)
    )


def test_views_of_the_own_picture_are_not_among_the_others(problem):
    support = spread(Samples.of(problem.features, problem.labels, with_views(problem.features)[:, 1:]))
    weights = agreement(support)
    rows = torch.nonzero(support.labels == 2).squeeze(-1).tolist()
    powers = []
    for k in rows:
        others = [j for j in rows if support.position[j] != support.position[k]]
        mean = sum(float(support.features[k] @ support.features[j]) for j in others) / len(others)
        powers.append(math.exp(mean / TEMPERATURE))
    assert weights[rows].tolist() == pytest.approx([len(rows) * power / sum(powers) for power in powers])
    assert shares(support).tolist() == pytest.approx([1 / 3] * len(support))


@pytest.mark.parametrize("reweight", [False, True])
def test_a_class_added_with_views_is_a_class_fitted(problem, reweight):
    views, last = with_views(problem.features), problem.labels == 4
    for name, settings in (("tip-adapter", {"reweight": reweight}), ("gda", {}), ("proker", {})):
        chosen = {"each_view": True, **settings}
        fitted = create_adapter(name, problem.text, TAU, chosen).fit(views, problem.labels)
        before = create_adapter(name, problem.text[:4], TAU, chosen).fit(views[~last], problem.labels[~last])
        after = before.add_class(problem.text[4], views[last])
        torch.testing.assert_close(after.logits(problem.queries), fitted.logits(problem.queries), rtol=1e-9, atol=1e-9)
        if name == "tip-adapter":
            assert sorted(set(after.get_buffer("support_index").tolist())) == list(range(20))


def test_what_takes_no_views_says_who_does(problem):
    views = with_views(problem.features)
    for adapter in (make("taskres", problem), TipAdapterF(problem.text, TAU)):
        with pytest.raises(InputError, match=r"features is .*several views of each sample: set each_view=yes"):
            adapter.fit(views, problem.labels)
    with pytest.raises(InputError, match=r"features is .*: give at least one view"):
        TipAdapter(problem.text, TAU, {"each_view": True}).fit(views[:, :0], problem.labels)
    with pytest.raises(InputError, match="have 1 and 3 views: give as many of each"):
        make("tip-adapter", problem, each_view=True).fit_on_all(
            views, problem.labels, problem.val_features, problem.val_labels
        )
    with pytest.raises(InputError, match="each_view and standardize exclude each other"):
        XMAdapterConfig(each_view=True, standardize=True)


def test_together_keeps_the_views_with_their_pictures(problem):
    support = Samples.of(problem.features, problem.labels, with_views(problem.features)[:, 1:])
    validation = Samples.of(problem.val_features, problem.val_labels, with_views(problem.val_features)[:, 1:])
    every = together(support, validation)
    assert torch.equal(every.given, torch.cat([support.given, validation.given])[every.position])
