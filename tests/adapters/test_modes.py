"""Every adapter fits and predicts the same whatever the caller has set in torch, and leaves it set."""

from __future__ import annotations

import pytest
import torch

from tests.adapters.problem import make_problem
from tests.adapters.test_battery import NAMES, arguments, make
from tests.modes import MODES
from vlmadapt.adapters import create_adapter, load_adapter


@pytest.fixture(scope="module")
def problem():
    return make_problem(dtype=torch.float32)


@pytest.fixture(scope="module")
def expected(problem):
    return {name: make(name, problem).fit(*problem.fit_arguments).predict_proba(problem.queries) for name in NAMES}


def state():
    return torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_fit_and_predict_as_ever(name, mode, problem, expected, tmp_path):
    given = arguments(name, problem)
    with MODES[mode]():
        before = state()
        adapter = create_adapter(name, **given).fit(*problem.fit_arguments)
        inside = adapter.predict_proba(problem.queries)
        adapter.save(tmp_path)
        again = load_adapter(tmp_path, adapter.encoder).predict_proba(problem.queries)
        assert state() == before
    assert inside.dtype == problem.features.dtype and inside.device.type == "cpu"
    for found in (inside, again, adapter.predict_proba(problem.queries)):
        torch.testing.assert_close(found, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_features_made_in_inference_mode_can_be_fitted_on(name, problem, expected):
    with torch.inference_mode():
        copies = [tensor.clone() for tensor in problem.fit_arguments]
        adapter = make(name, problem)
    assert copies[0].is_inference()
    assert torch.equal(adapter.fit(*copies).predict_proba(problem.queries), expected[name])
