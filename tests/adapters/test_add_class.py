"""A class or samples added to a fitted classifier are what a fit with them would have made."""

import pytest
import torch

from tests.adapters.problem import TAU, make_problem
from tests.adapters.test_battery import make
from vlmadapt.adapters import ADAPTERS, GDA, NoText, ProKeR, TipAdapter, create_adapter, load_adapter
from vlmadapt.errors import InputError

NAMES = [name for name, kind in ADAPTERS.items() if kind.grows]
FIXED = {
    "tip-adapter": {"beta": 3.0, "alpha": 2.0},
    "gda": {"alpha": 0.3},
    "proker": {"beta": 4.0, "lam": 0.7},
    "ncm": {"alpha": 0.4, "centre": False},
    "ss-text": {},
}


def test_those_that_can_are_the_closed_forms():
    assert NAMES == ["ss-text", "ncm", "gda", "proker", "tip-adapter"]


@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_class_added_is_a_class_fitted(name, text, shots, tmp_path):
    if not text and ADAPTERS[name].needs_text:
        pytest.skip("needs text")
    problem = make_problem(classes=5, shots=shots)
    last = problem.labels == 4
    whole, part = (
        (problem.text, problem.text[:4]) if text else (NoText(5, 24, torch.float64), NoText(4, 24, torch.float64))
    )
    fitted = create_adapter(name, whole, TAU, FIXED[name]).fit(problem.features, problem.labels)
    before = create_adapter(name, part, TAU, FIXED[name]).fit(problem.features[~last], problem.labels[~last])
    old = before.logits(problem.queries)
    before = load_adapter(before.save(tmp_path / "before"))
    after = before.add_class(problem.text[4] if text else None, problem.features[last], name="the fifth")
    torch.testing.assert_close(after.logits(problem.queries), fitted.logits(problem.queries), rtol=1e-9, atol=1e-9)
    assert torch.equal(before.logits(problem.queries), old)
    assert after.class_names[-1] == "the fifth" and after.hyperparameters() == before.hyperparameters()
    loaded = load_adapter(after.save(tmp_path / "after"))
    assert torch.equal(loaded.logits(problem.queries), after.logits(problem.queries))
    again = loaded.add_class(problem.text[0] if text else None, problem.val_features[:2])
    assert again.num_classes == 6 and again.predict(problem.queries).max() < 6


def test_what_was_searched_and_calibrated_stays():
    problem = make_problem()
    adapter = TipAdapter(problem.text, TAU).fit(*problem.fit_arguments)
    after = adapter.add_class(torch.randn(24, dtype=torch.float64), torch.randn(3, 24, dtype=torch.float64))
    assert after.hyperparameters() == adapter.hyperparameters() and after.certainties_ == adapter.certainties_
    assert after.temperature_ == adapter.temperature_ and after.class_names[-1] == "class 5"
    votes = after.explain(after.keys[-1:].clone(), top=1)
    assert votes[0][0].support_index == len(problem.labels) + 2


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name not in NAMES])
def test_others_say_which_can(name):
    problem = make_problem()
    adapter = make(name, problem).fit(problem.features, problem.labels)
    with pytest.raises(InputError, match="fit it again, or use ss-text, ncm, gda, proker, tip-adapter"):
        adapter.add_class(problem.text[0], problem.features[:1])
    with pytest.raises(InputError, match="cannot take a class or samples without a fit"):
        adapter.add_samples(problem.features[:1], problem.labels[:1])


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_samples_added_are_samples_fitted(name, text, tmp_path):
    if not text and ADAPTERS[name].needs_text:
        pytest.skip("needs text")
    problem = make_problem(classes=5, shots=6)
    given = problem.text if text else NoText(5, 24, torch.float64)
    first = torch.arange(30) % 3 == 0
    first &= problem.labels != 2  # a class that has none so far
    fitted = create_adapter(name, given, TAU, FIXED[name]).fit(problem.features, problem.labels)
    before = create_adapter(name, given, TAU, FIXED[name]).fit(problem.features[first], problem.labels[first])
    old = before.logits(problem.queries)
    before = load_adapter(before.save(tmp_path / "before"))
    rest = torch.nonzero(~first).squeeze(-1)
    after = before.add_samples(problem.features[rest[:7]], problem.labels[rest[:7]])
    after = load_adapter(after.save(tmp_path / "after")).add_samples(
        problem.features[rest[7:]], problem.labels[rest[7:]]
    )
    torch.testing.assert_close(after.logits(problem.queries), fitted.logits(problem.queries), rtol=1e-9, atol=1e-9)
    assert torch.equal(before.logits(problem.queries), old)
    assert after.class_names == before.class_names and after.hyperparameters() == before.hyperparameters()


@pytest.mark.parametrize("more", [{"reweight": True}, {"each_view": True}, {"reweight": True, "each_view": True}])
def test_weights_of_cached_samples_are_those_of_a_fit_on_all(more):
    problem = make_problem(classes=5, shots=4)
    features = problem.features
    if "each_view" in more:
        generator = torch.Generator().manual_seed(0)
        features = features[:, None] + 0.05 * torch.randn(20, 3, 24, generator=generator, dtype=torch.float64)
    config = {**FIXED["tip-adapter"], **more}
    fitted = TipAdapter(problem.text, TAU, config).fit(features, problem.labels)
    part = TipAdapter(problem.text, TAU, config).fit(features[::2], problem.labels[::2])
    after = part.add_samples(features[1::2], problem.labels[1::2])
    torch.testing.assert_close(after.logits(problem.queries), fitted.logits(problem.queries), rtol=1e-9, atol=1e-9)
    assert sorted(after.support_index.unique().tolist()) == list(range(20))


def test_a_centred_ncm_says_why_it_cannot(tmp_path):
    problem = make_problem()
    adapter = create_adapter("ncm", problem.text, TAU).fit(problem.features, problem.labels)
    with pytest.raises(InputError, match="its centre would move: fit it with centre=no"):
        adapter.add_samples(problem.features[:1], problem.labels[:1])


def test_samples_are_checked_as_those_of_a_fit():
    problem = make_problem()
    adapter = GDA(problem.text, TAU).fit(problem.features, problem.labels)
    with pytest.raises(InputError, match="labels holds 9 at index 0 but there are 5 classes"):
        adapter.add_samples(problem.features[:1], [9])
    with pytest.raises(InputError, match="features has no rows"):
        adapter.add_samples(problem.features[:0], [])
    named = adapter.add_samples(problem.features[:1], ["class 3"])
    assert int(named.counts[3]) == int(adapter.counts[3]) + 1


WRONG = {
    "no samples": (lambda p: (p.text[0], p.features[:0], "new"), "features has no rows"),
    "a name twice": (lambda p: (p.text[0], p.features[:1], "class 1"), "name is 'class 1', which is a class already"),
    "no text": (lambda p: (None, p.features[:1], "new"), r"text_feature is None: give the class's text feature \[24\]"),
    "two texts": (lambda p: (p.text[:2], p.features[:1], "new"), r"text_feature is .*: give one class's, \[24\]"),
    "another width": (lambda p: (p.text[0, :5], p.features[:1], "new"), "text_feature"),
    "text of NaN": (lambda p: (p.text[0] * float("nan"), p.features[:1], "new"), "text_feature"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_added_is_one_sentence(case):
    problem = make_problem()
    arguments, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        GDA(problem.text, TAU).fit(problem.features, problem.labels).add_class(*arguments(problem))


def test_text_where_there_is_none_is_refused():
    problem = make_problem()
    adapter = ProKeR(NoText(5, 24, torch.float64), TAU).fit(problem.features, problem.labels)
    with pytest.raises(InputError, match="has no text: pass None"):
        adapter.add_class(problem.text[0], problem.features[:1])


def test_a_gda_that_kept_nothing_says_so(tmp_path):
    problem = make_problem()
    adapter = GDA(problem.text, TAU, {"extendable": False}).fit(problem.features, problem.labels)
    assert adapter.scatter is None
    adapter = load_adapter(adapter.save(tmp_path))
    with pytest.raises(InputError, match="fitted with extendable=no"):
        adapter.add_class(problem.text[0], problem.features[:1])
    assert adapter.fitted_
