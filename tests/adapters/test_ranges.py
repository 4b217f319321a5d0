"""Where the best value lies on the edge of what is searched, the search goes on beyond."""

import pytest
import torch

from tests.adapters.problem import TAU, make_problem
from vlmadapt.adapters import GDA, load_adapter
from vlmadapt.adapters.ranges import WIDENINGS, on_edge, wider
from vlmadapt.config import GRID_RANGE


def test_a_range_grows_by_half_beyond_the_edge_in_steps_as_fine():
    low, high, steps = wider((0.1, 10.0, 5), 10.0)
    assert (low, steps) == (0.1, 7) and high == pytest.approx(100.0)
    low, high, steps = wider((0.1, 10.0, 5), 0.1)
    assert (high, steps) == (10.0, 7) and low == pytest.approx(0.01)
    assert wider((1.0, 2.0, 2), 2.0) == (1.0, 4.0, 3)


def test_a_range_keeps_within_what_a_search_may_hold():
    whole = (*GRID_RANGE, 5)
    assert wider(whole, GRID_RANGE[1]) == whole
    assert not on_edge(1.0, (1.0, 1.0, 1)) and on_edge(1.0, (1.0, 4.0, 2)) and not on_edge(2.0, (1.0, 4.0, 2))


def on_samples_that_decide(searched):
    """Text that says nothing: the larger alpha, the more likely the labels."""
    problem = make_problem(classes=4, shots=8)
    silent = torch.ones_like(problem.text)
    adapter = GDA(silent, TAU, {"search_alpha": searched})
    return adapter.fit(problem.features, problem.labels, problem.val_features, problem.val_labels)


def test_a_search_goes_on_beyond_its_edge_until_none_is_reached(tmp_path):
    adapter = on_samples_that_decide((1e-6, 1e-5, 3))
    low, high, steps = adapter.searched("search_alpha")
    assert low == 1e-6 and high > 1e-5 and 3 < steps <= 3 + 2 * WIDENINGS
    loaded = load_adapter(adapter.save(tmp_path / "gda"))
    assert loaded.searched("search_alpha") == (low, high, steps) and loaded.at_edges() == adapter.at_edges()


def test_a_range_of_one_value_stays():
    adapter = on_samples_that_decide((0.5, 0.5, 1))
    assert adapter.searched("search_alpha") == (0.5, 0.5, 1) and not adapter.at_edges()
    assert adapter.hyperparameters() == {"alpha": 0.5}
