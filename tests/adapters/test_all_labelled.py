"""A fit on all labelled samples: what is settled on, that nothing leaks, and that it can be resumed."""

import math

import pytest
import torch

from tests.adapters.problem import TAU, make_problem
from tests.adapters.test_battery import make
from vlmadapt.adapters import ADAPTERS, GDA, LinearProbe, TipAdapter, load_adapter
from vlmadapt.adapters.all_labelled import middle
from vlmadapt.adapters.folds import repeats_for, splits, together
from vlmadapt.errors import InputError
from vlmadapt.training import Samples

NAMES = list(ADAPTERS)


@pytest.fixture(scope="module")
def problem():
    return make_problem()


@pytest.fixture(scope="module", params=NAMES)
def fitted(request, problem):
    return make(request.param, problem).fit_on_all(*problem.fit_arguments, repeats=1)


def test_the_middle_is_the_median_of_logarithms_where_all_are_positive():
    found = [{"alpha": 1.0, "c": 0.0}, {"alpha": 100.0, "c": 4.0}, {"alpha": 2.0, "c": 1.0}, {"alpha": 8.0, "c": 2.0}]
    assert middle(found) == pytest.approx({"alpha": 4.0, "c": 1.5})
    assert middle([]) == {}


def test_the_most_frequent_names_decide():
    found = [{"beta": 1.0, "w": 1.0}, {"beta": 9.0, "alpha": 3.0}, {"beta": 4.0, "w": 4.0}]
    assert middle(found) == pytest.approx({"beta": 2.0, "w": 2.0})


def test_few_samples_are_dealt_more_often():
    assert [repeats_for(count) for count in (0, 1, 99, 150, 299, 300, 5000)] == [3, 3, 3, 2, 2, 1, 1]


def test_hyperparameters_are_the_middle_of_what_the_folds_choose(problem):
    """Written out for one method."""
    adapter = TipAdapter(problem.text, TAU).fit_on_all(*problem.fit_arguments, repeats=2, seed=3)
    features = torch.cat([problem.features, problem.val_features])
    features = features / features.norm(dim=1, keepdim=True)  # whose bytes say how they are dealt
    labels = torch.cat([problem.labels, problem.val_labels])
    chosen = []
    for known, held in splits(features, labels, 4, 2, seed=3):
        trial = TipAdapter(problem.text, TAU).fit(features[known], labels[known], features[held], labels[held])
        chosen.append(trial.hyperparameters())
    for name in ("beta", "alpha"):
        logarithms = sorted(math.log(values[name]) for values in chosen)
        assert len(logarithms) == 8
        assert adapter.hyperparameters()[name] == pytest.approx(math.exp((logarithms[3] + logarithms[4]) / 2))
    settled = TipAdapter(problem.text, TAU, adapter.hyperparameters()).fit(features, labels)
    torch.testing.assert_close(adapter.logits(problem.queries), settled.logits(problem.queries))


def test_every_method_knows_all_samples_and_is_calibrated(fitted, problem, tmp_path):
    count = len(problem.labels) + len(problem.val_labels)
    assert len(fitted.certainties_) == count and 0 <= fitted.held_out_accuracy_ <= 1
    assert fitted.config == make(fitted.name, problem).config
    if fitted.explains and fitted.name != "auto":
        assert sorted(fitted.support_index.tolist()) == list(range(count))
    loaded = load_adapter(fitted.save(tmp_path / "a"), encoder=fitted.encoder)
    assert torch.equal(loaded.predict_proba(problem.queries), fitted.predict_proba(problem.queries))
    assert loaded.hyperparameters() == fitted.hyperparameters()


@pytest.mark.parametrize(("name", "fits"), [("tip-adapter", 5), ("clip-lora", 4), ("coop", 4)])
def test_a_method_that_searches_nothing_is_not_fitted_to_choose(name, fits, problem, monkeypatch):
    seen, fit = [], ADAPTERS[name]._fit

    def counted(*arguments):
        seen.append(1)
        fit(*arguments)

    monkeypatch.setattr(ADAPTERS[name], "_fit", counted)
    make(name, problem).fit_on_all(*problem.fit_arguments, folds=2, repeats=1)
    assert len(seen) == fits


def test_the_order_of_the_samples_changes_no_bit(fitted, problem):
    shuffled = torch.randperm(len(problem.labels), generator=torch.Generator().manual_seed(1))
    again = make(fitted.name, problem).fit_on_all(
        problem.features[shuffled], problem.labels[shuffled], problem.val_features, problem.val_labels, repeats=1
    )
    assert torch.equal(again.logits(problem.queries), fitted.logits(problem.queries))
    assert again.hyperparameters() == fitted.hyperparameters()


@pytest.mark.parametrize("kind", [GDA, LinearProbe, TipAdapter])
def test_labels_that_mean_nothing_are_predicted_by_chance(kind):
    """Held out is held out, whatever was chosen."""
    problem = make_problem(classes=4, shots=30)
    noise = torch.randint(4, (120,), generator=torch.Generator().manual_seed(0))
    adapter = kind(torch.ones_like(problem.text), TAU).fit_on_all(problem.features, noise)
    assert adapter.held_out_accuracy_ < 0.4
    assert len(adapter.certainties_) == 360 and sum(adapter.certainties_) / 360 < 0.4


def test_without_a_second_sample_of_any_class_the_configured_values_stand(problem):
    one = torch.stack([torch.nonzero(problem.labels == label)[0, 0] for label in range(5)])
    adapter = TipAdapter(problem.text, TAU).fit_on_all(problem.features[one], problem.labels[one])
    assert adapter.hyperparameters() == {"beta": 5.5, "alpha": 1.0}
    assert adapter.temperature_ == 1.0 and not adapter.certainties_ and adapter.held_out_accuracy_ is None


def test_an_interrupted_fit_goes_on_to_the_same_result(problem, tmp_path):
    whole = make("taskres", problem).fit_on_all(*problem.fit_arguments, repeats=1)
    for stops_after in (1, 4):
        adapter, count = make("taskres", problem), 0
        original = type(adapter)._fit

        def counted(self, *arguments, original=original, stops_after=stops_after):
            nonlocal count
            count += 1
            if count > stops_after:
                raise KeyboardInterrupt
            original(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(adapter), "_fit", counted)
            with pytest.raises(KeyboardInterrupt):
                adapter.fit_on_all(*problem.fit_arguments, repeats=1, checkpoint_dir=tmp_path)
        assert not adapter.fitted_
    again = make("taskres", problem).fit_on_all(*problem.fit_arguments, repeats=1, checkpoint_dir=tmp_path)
    assert torch.equal(again.logits(problem.queries), whole.logits(problem.queries))


@pytest.mark.parametrize(("name", "value"), [("folds", 1), ("folds", 2.5), ("repeats", 0), ("repeats", True)])
def test_folds_and_repeats_are_checked(problem, name, value):
    with pytest.raises(InputError, match=f"{name} is {value}: give a whole number of at least"):
        make("gda", problem).fit_on_all(*problem.fit_arguments, **{name: value})


def test_together_counts_validation_after_support(problem):
    support, validation = Samples.of(*problem.fit_arguments[:2]), Samples.of(*problem.fit_arguments[2:])
    every = together(support, validation)
    features = torch.cat([support.features, validation.features])
    assert torch.equal(every.features, features[every.position])
    assert sorted(every.position.tolist()) == list(range(len(features)))
