"""No temporary tensor of a fit or a prediction outgrows the budget, and tiles change nothing but rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.adapters.problem import make_problem
from tests.adapters.test_battery import NAMES, make
from vlmadapt.adapters import ADAPTERS, proker
from vlmadapt.training import budget as module
from vlmadapt.training.budget import cell_likelihoods, grid_accuracy, score_in_tiles, tiles

SMALL = 32 << 10


class Largest(TorchDispatchMode):
    """The bytes of the largest storage that an operator returns."""

    bytes = 0
    where = ""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > self.bytes:
                self.bytes, self.where = leaf.untyped_storage().nbytes(), f"{function} {list(leaf.shape)}"
        return result


@pytest.fixture
def small_budget(monkeypatch):
    monkeypatch.setattr(module, "BUDGET", SMALL)


@pytest.fixture(scope="module")
def wide():
    """Many classes of narrow features: whatever has a number a sample and class is far larger than the features."""
    return make_problem(classes=40, shots=16, width=6, dtype=torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_no_temporary_outgrows_the_budget(name, wide, small_budget, monkeypatch):
    """ProKeR holds what it solves for, a number a sample and class; up to ``DIRECT`` samples the kernel too."""
    monkeypatch.setattr(proker, "DIRECT", 0)
    most = wide.text.shape[0] * wide.features.nbytes // wide.text.shape[1] if name == "proker" else SMALL
    inputs = max(part.nbytes for part in (wide.features, wide.val_features))
    assert inputs < SMALL < len(wide.features) * len(wide.text) * 4
    settings: dict[str, dict[str, Any]] = {
        "clip-adapter": {"search_ratio": True},
        "auto": {"parts": ("zero-shot", "ncm-1", "gda-0.1")},
    }
    extra = settings.get(name, {})
    with Largest() as fit:
        adapter = make(name, wide, **extra).fit(*wide.fit_arguments)
    assert fit.bytes <= most, fit.where
    queries = wide.queries.repeat(10_000 // len(wide.queries) + 1, 1)[:10_000].clone()
    with Largest() as prediction:
        predicted = adapter.predict(queries)
    assert prediction.bytes <= queries.nbytes, prediction.where
    with Largest() as answer:
        logits = adapter.logits(queries)
    assert answer.bytes <= logits.nbytes, answer.where
    assert torch.equal(logits.argmax(-1), predicted)
    if ADAPTERS[name].explains and name != "auto":  # whose parts do
        with Largest() as explanation:
            votes = adapter.explain(wide.queries, top=1)
        assert len(votes) == len(wide.queries)
        assert explanation.bytes <= SMALL, explanation.where


def test_the_direct_solution_of_proker_holds_one_kernel(wide):
    size = wide.features.shape[0] ** 2 * wide.features.itemsize
    kernels: set[int] = set()

    class Kernels(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            kernels.update(storage.data_ptr() for storage in storages if storage.nbytes() >= size)
            return result

    adapter = make("proker", wide)
    with Kernels():
        adapter.fit(wide.features, wide.labels)
    assert len(kernels) == 1


@pytest.mark.parametrize("name", NAMES)
def test_tiles_change_nothing_but_rounding(name, monkeypatch):
    problem = make_problem(classes=6)
    whole = make(name, problem).fit(*problem.fit_arguments)
    before = whole.logits(problem.queries), whole.explain(problem.queries) if whole.explains else None
    monkeypatch.setattr(module, "BUDGET", 8 * 6 * 5)  # five samples or candidates at a time
    tiled = make(name, problem).fit(*problem.fit_arguments)
    torch.testing.assert_close(tiled.logits(problem.queries), before[0], rtol=1e-9, atol=1e-9)
    assert tiled.hyperparameters() == pytest.approx(whole.hyperparameters(), rel=1e-9)
    assert torch.equal(tiled.predict(problem.queries), before[0].argmax(-1))
    if before[1] is not None:
        after = tiled.explain(problem.queries)
        assert [[vote.support_index for vote in row] for row in after] == [
            [vote.support_index for vote in row] for row in before[1]
        ]


@pytest.mark.parametrize("budget", [1, 8 * 3 * 4, 1 << 20])
def test_grid_and_cells_are_those_of_the_whole(budget, monkeypatch):
    monkeypatch.setattr(module, "BUDGET", budget)
    logits = torch.randn(5, 7, 11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(11) % 3
    log_probabilities = logits.log_softmax(-1)[:, :, torch.arange(11), labels]

    def at_rows(rows: slice) -> Any:
        return lambda g: lambda a: logits[g, a, rows]

    accuracy = grid_accuracy(at_rows, labels, 3, (5, 7), held=5)
    torch.testing.assert_close(accuracy, (logits.argmax(-1) == labels).double().mean(-1))
    g, a = torch.tensor([4, 0, 4, 2]), torch.tensor([1, 6, 0, 2])
    found = cell_likelihoods(at_rows, labels, 3, g, a, held=5)
    torch.testing.assert_close(found, log_probabilities[g, a].mean(-1))
    hits, likelihood = score_in_tiles(lambda rows: logits[2, 3, rows], labels, 3)
    assert hits == pytest.approx(float(accuracy[2, 3]))
    assert likelihood == pytest.approx(float(log_probabilities[2, 3].mean()))


def test_tiles_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(module, "BUDGET", 8 * 10 * 4)
    assert [(rows.start, rows.stop) for rows in tiles(9, 10)] == [(0, 4), (4, 8), (8, 9)]
    assert list(tiles(0, 10)) == []
    assert len(list(tiles(2, 1000))) == 2  # a row larger than the budget is a tile all the same
