"""A trained method on other classes: only what is not bound to its own can be taken there."""

from __future__ import annotations

import pytest
import torch

from tests.adapters.problem import make_problem
from tests.adapters.test_battery import make
from vlmadapt.adapters import ADAPTERS, load_adapter
from vlmadapt.errors import InputError

TRANSFERRING = [name for name, kind in ADAPTERS.items() if kind.transfers]
OTHERS = [3, 1]


@pytest.fixture(scope="module")
def problem():
    return make_problem()


@pytest.mark.parametrize("name", TRANSFERRING)
def test_other_classes_are_answered_by_what_was_learned(name, problem, tmp_path):
    adapter = make(name, problem).fit(*problem.fit_arguments)
    before = {key: tensor.clone() for key, tensor in adapter.state_dict().items()}
    names = [adapter.class_names[label] for label in OTHERS]
    other = adapter.for_classes(problem.text[OTHERS], names)
    torch.testing.assert_close(other.logits(problem.queries), adapter.logits(problem.queries)[:, OTHERS])
    assert list(other.class_names) == names and other.temperature_ == adapter.temperature_
    assert all(torch.equal(tensor, before[key]) for key, tensor in adapter.state_dict().items())
    adapter.save(tmp_path)
    again = load_adapter(tmp_path, encoder=adapter.encoder).for_classes(problem.text[OTHERS], names)
    torch.testing.assert_close(again.logits(problem.queries), other.logits(problem.queries))


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name not in TRANSFERRING])
def test_what_is_bound_to_its_classes_says_so(name, problem):
    adapter = make(name, problem).fit(*problem.fit_arguments)
    with pytest.raises(InputError, match=r"learned its own classes .*: fit it again, or use zero-shot, .*\.$"):
        adapter.for_classes(problem.text[OTHERS])


def test_a_context_of_each_class_is_bound_to_it(problem):
    adapter = make("coop", problem, per_class=True).fit(*problem.fit_arguments)
    assert not adapter.can_transfer
    with pytest.raises(InputError, match="its own classes"):
        adapter.for_classes(problem.text[OTHERS])


def test_nothing_is_handed_on_before_a_fit(problem):
    with pytest.raises(InputError, match="not fitted"):
        make("clip-adapter", problem).for_classes(problem.text[OTHERS])
