"""Weights of cached samples: their formula, and what they do to scores, searches and training."""

import math

import pytest
import torch

from tests.adapters.problem import TAU, make_problem
from tests.adapters.test_battery import make
from vlmadapt.adapters import ADAPTERS, TipAdapter, XMAdapterConfig, load_adapter
from vlmadapt.adapters.reweight import TEMPERATURE, CacheConfig, agreement
from vlmadapt.errors import InputError
from vlmadapt.training import Samples

NAMES = [name for name, kind in ADAPTERS.items() if issubclass(kind.config_class, CacheConfig)]


@pytest.fixture(scope="module")
def problem():
    return make_problem(shots=4)


def test_all_cache_methods_have_the_option():
    assert set(NAMES) == {"tip-adapter", "tip-adapter-f", "xmadapter", "hegraph"}


def test_weights_are_their_formula(problem):
    labels = problem.labels.clone()
    labels[labels == 3] = 2  # a class of eight, one without samples
    labels[torch.nonzero(labels == 4)[1:]] = 0  # and one of a single sample
    weights = agreement(Samples.of(problem.features, labels))
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).squeeze(-1).tolist()
        means = [
            sum(float(problem.features[k] @ problem.features[j]) for j in rows if j != k) / (len(rows) - 1)
            for k in rows
            if len(rows) > 1
        ] or [0.0]
        powers = [math.exp(mean / TEMPERATURE) for mean in means]
        expected = [len(rows) * power / sum(powers) for power in powers]
        assert weights[rows].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_two_is_a_sample_twice(name, problem):
    adapter = make(name, problem).fit(problem.features, problem.labels)
    times = 1 + torch.arange(len(problem.labels)) % 3
    plain = adapter.logits(problem.queries)
    adapter.entry_weights = times.double()
    weighed = adapter.logits(problem.queries)
    assert not torch.allclose(weighed, plain)
    rows = torch.repeat_interleave(torch.arange(len(times)), times)
    keys = adapter.keys.detach()[rows]
    adapter.entry_weights, adapter.labels = None, adapter.labels[rows]
    adapter.keys = torch.nn.Parameter(keys) if isinstance(adapter.keys, torch.nn.Parameter) else keys
    torch.testing.assert_close(adapter.logits(problem.queries), weighed, rtol=1e-9, atol=1e-9)


def test_searches_see_the_weights(problem):
    """The grid in one pass and beta by beta are the same."""
    adapter = TipAdapter(problem.text, TAU, {"reweight": True}).fit(*problem.fit_arguments)
    adapter.entry_weights = torch.ones(len(problem.labels), dtype=torch.float64)
    validation = Samples.of(*problem.fit_arguments[2:])
    slow = adapter._grid_accuracy(validation)
    adapter.entry_weights = None
    torch.testing.assert_close(slow, adapter._grid_accuracy(validation))


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_saved_and_votes_have_them(name, problem, tmp_path):
    adapter = make(name, problem, reweight=True).fit(*problem.fit_arguments)
    loaded = load_adapter(adapter.save(tmp_path))
    assert torch.equal(loaded.logits(problem.queries), adapter.logits(problem.queries))
    support = adapter._samples("features", problem.features, "labels", problem.labels)
    torch.testing.assert_close(loaded.get_buffer("entry_weights"), agreement(support))
    for row in adapter.explain(problem.queries[:2], top=len(problem.labels)):
        assert sum(vote.class_share for vote in row) == pytest.approx(5.0)  # 1 of each class


def test_a_class_added_has_weights_of_its_own(problem):
    last = problem.labels == 4
    settings = {"reweight": True}
    fitted = TipAdapter(problem.text, TAU, settings).fit(problem.features, problem.labels)
    before = TipAdapter(problem.text[:4], TAU, settings).fit(problem.features[~last], problem.labels[~last])
    after = before.add_class(problem.text[4], problem.features[last])
    torch.testing.assert_close(after.logits(problem.queries), fitted.logits(problem.queries), rtol=1e-9, atol=1e-9)


def test_what_has_no_scale_has_no_weights():
    with pytest.raises(InputError, match="reweight and standardize exclude each other"):
        XMAdapterConfig(reweight=True, standardize=True)
