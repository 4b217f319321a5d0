"""auto: folds, the mixture, what it leaves out, what it says."""

from __future__ import annotations

import pytest
import torch

from tests.adapters import loops
from tests.adapters.problem import TAU, make_problem
from vlmadapt.adapters import Auto, load_adapter
from vlmadapt.adapters.auto.parts import PARTS, Size, affordable
from vlmadapt.adapters.auto.stack import mixture_weights, stack
from vlmadapt.adapters.folds import assign, splits
from vlmadapt.errors import FileError, InputError
from vlmadapt.weights import read_pair, write_pair

QUICK = ("zero-shot", "ncm-1", "gda-0.1", "proker-1")


@pytest.fixture(scope="module")
def problem():
    return make_problem()


def votes_of(adapter, problem):
    return [vote.support_index for vote in adapter.explain(problem.queries[:1], top=100)[0]]


def test_each_sample_is_held_out_once_a_repeat():
    labels = torch.arange(3).repeat(6)
    held = [row for _, rows in splits(torch.randn(18, 4), labels, 4, repeats=2, seed=0) for row in rows.tolist()]
    assert sorted(held) == sorted([*range(18)] * 2)


def test_a_class_never_loses_all_of_its_samples():
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3])
    for known, held in splits(torch.randn(12, 4), labels, 4, repeats=3, seed=1):
        assert set(labels[known].tolist()) == {0, 1, 2, 3}
        assert 0 not in held  # the only one of its class
        assert not set(known.tolist()) & set(held.tolist())


def test_two_samples_a_class_are_two_balanced_folds():
    labels = torch.arange(6).repeat(2)
    rounds = list(splits(torch.randn(12, 4), labels, 4, repeats=1, seed=0))
    assert [sorted(labels[held].tolist()) for _, held in rounds] == [[*range(6)]] * 2


def test_folds_are_even_within_a_class():
    fold = assign(torch.zeros(10, dtype=torch.int64), 4, torch.randperm(10))
    assert sorted(torch.bincount(fold, minlength=4).tolist()) == [2, 2, 3, 3]


@pytest.mark.parametrize("prior", [1.0, 2.0])
def test_weights_are_the_fixed_point_of_em(prior):
    chances = torch.rand(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = mixture_weights(chances, prior).tolist()
    assert sum(weights) == pytest.approx(1.0)
    for m, weight in enumerate(weights):
        shares = sum(
            weight * row[m] / sum(w * value for w, value in zip(weights, row, strict=True))
            for row in chances.T.tolist()
        )
        assert weight == pytest.approx((shares + prior - 1) / (40 + 3 * (prior - 1)), abs=1e-4)


def test_a_part_that_guesses_gets_next_to_nothing():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat(100)
    good = 3.0 * torch.eye(5, dtype=torch.float64)[labels] + torch.randn(500, 5, generator=generator)
    blind = torch.randn(500, 5, generator=generator, dtype=torch.float64)
    mixture = stack([[good], [blind]], [labels], prior=2.0)
    assert mixture.weights[0] > 0.95


def test_probabilities_are_the_mixture(problem):
    adapter = Auto(problem.text, TAU, {"parts": QUICK}).fit(*problem.fit_arguments)
    parts = [part for _, part in adapter._by_weight()]
    for row in range(3):
        mixed = [0.0] * 5
        for part, t, w in zip(parts, adapter.temperatures.tolist(), adapter.weights.tolist(), strict=True):
            chances = loops.softmax([value / t for value in part.logits(problem.queries[row : row + 1])[0].tolist()])
            mixed = [m + w * p for m, p in zip(mixed, chances, strict=True)]
        powers = [p ** (1 / float(adapter.whole)) for p in mixed]
        expected = [p / sum(powers) for p in powers]
        assert adapter.predict_proba(problem.queries[row : row + 1])[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_parts_are_fitted_on_all_labelled_samples(problem):
    adapter = Auto(problem.text, TAU, {"parts": ("zero-shot", "tip-adapter-f")}).fit(*problem.fit_arguments)
    assert sorted(votes_of(adapter, problem)) == [*range(len(problem.labels) + len(problem.val_labels))]
    alone = Auto(problem.text, TAU, {"parts": ("zero-shot", "tip-adapter-f")}).fit(problem.features, problem.labels)
    assert sorted(votes_of(alone, problem)) == [*range(len(problem.labels))]


def test_held_out_accuracy_is_no_accuracy_on_what_was_trained_on():
    """Labels that mean nothing are learned by heart, and predicted no better than by chance."""
    problem = make_problem(classes=4, shots=20)
    noise = torch.randint(4, (80,), generator=torch.Generator().manual_seed(0))
    adapter = Auto(problem.text, TAU, {"parts": ("linear-probe", "proker-0.1")})
    adapter.fit(problem.features, noise)
    seen = float((adapter.predict(problem.features) == noise).double().mean())
    accuracy = adapter.held_out_accuracy_
    assert accuracy is not None and accuracy < 0.45 < seen


def test_no_sample_to_hold_out_leaves_all_parts_alike():
    problem = make_problem(shots=1)
    adapter = Auto(problem.text, TAU, {"parts": QUICK}).fit(problem.features, problem.labels)
    assert adapter.weights.tolist() == [0.25] * 4
    assert adapter.held_out_accuracy_ is None


def test_dear_parts_are_left_out_and_named(problem):
    adapter = Auto(problem.text, TAU, {"most": 3e5}, negative_text_features=problem.negative)
    adapter.fit(*problem.fit_arguments)
    assert "zero-shot" not in adapter.left_out and "xmadapter" in adapter.left_out
    size = Size(100, 10, 64)
    assert list(affordable(dict(PARTS), size, 5, 1e30)) == list(PARTS)
    assert list(affordable(dict(PARTS), size, 5, 0.0)) == ["zero-shot"]


def test_without_negatives_or_classes_parts_are_left_out(problem):
    adapter = Auto(problem.text, TAU, {"parts": ("zero-shot", "linear-probe", "hegraph")})
    one = problem.labels == 0
    adapter.fit(problem.features[one], problem.labels[one])
    assert adapter.left_out == ("linear-probe", "hegraph")
    assert list(adapter.hyperparameters()) == ["weight of zero-shot"]
    with pytest.raises(InputError, match="without negative_text_features nothing of it can be fitted"):
        Auto(problem.text, TAU, {"parts": ("hegraph",)})


@pytest.mark.parametrize("change", ["weight gone", "weights longer", "NaN", "zero", "tensor gone", "narrow part"])
def test_files_that_contradict_themselves_are_refused(problem, tmp_path, change):
    """As after an edit that renews the hashes."""
    Auto(problem.text, TAU, {"parts": QUICK}).fit(*problem.fit_arguments).save(tmp_path)
    header, state = read_pair(tmp_path)
    if change == "weight gone":
        header["hyperparameters"] = {}
    elif change == "weights longer":
        state["weights"] = torch.cat([state["weights"], state["weights"]])
    elif change == "tensor gone":
        del state["parts.proker-1.values"]
    elif change == "narrow part":
        state["parts.ncm-1.means"] = state["parts.ncm-1.means"][:2]
    else:
        state["temperatures"][0] = float("nan") if change == "NaN" else 0.0
    write_pair(tmp_path, state, {name: header[name] for name in header if name not in ("format_version",)})
    with pytest.raises(FileError, match=r"adapter\.json does not describe an adapter this version knows"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("parts", [3, True, None, (1,)])
def test_parts_that_are_no_names_are_one_sentence(problem, parts):
    with pytest.raises(InputError, match=r"name parts, with \+ between them"):
        Auto(problem.text, TAU, {"parts": parts})


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [(("tip",), "holds 'tip': use some of zero-shot"), ((), "name at least one"), (("ncm-1", "ncm-1"), "each once")],
)
def test_wrong_parts_are_one_sentence(problem, parts, sentence):
    with pytest.raises(InputError, match=sentence):
        Auto(problem.text, TAU, {"parts": parts})


def test_parts_may_be_one_word(problem):
    assert Auto(problem.text, TAU, {"parts": "zero-shot+ncm-1"}).config.parts == ("zero-shot", "ncm-1")


def test_without_a_cache_it_says_which_parts_explain(problem):
    adapter = Auto(problem.text, TAU, {"parts": QUICK}).fit(*problem.fit_arguments)
    with pytest.raises(InputError, match="fit it with one of tip-adapter-f, xmadapter, hegraph"):
        adapter.explain(problem.queries)


def test_only_what_has_a_say_is_saved(problem, tmp_path):
    adapter = Auto(problem.text, TAU, {"parts": QUICK}).fit(*problem.fit_arguments)
    loaded = load_adapter(adapter.save(tmp_path))
    assert isinstance(loaded, Auto)
    assert list(loaded.parts) == list(adapter.parts)
    assert loaded.hyperparameters() == adapter.hyperparameters()
    assert torch.equal(loaded.predict_proba(problem.queries), adapter.predict_proba(problem.queries))
    again = load_adapter(loaded.save(tmp_path / "again"))
    assert torch.equal(again.logits(problem.queries), adapter.logits(problem.queries))
