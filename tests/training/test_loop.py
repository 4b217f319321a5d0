"""The training loop: learning, schedule, determinism, exact resume, NaN guard."""

from __future__ import annotations

import errno
import math
import os

import pytest
import torch
from torch import nn

from vlmadapt.errors import FileError, InputError
from vlmadapt.training import ParameterGroup, TrainConfig, TrainingDiverged, fit_loop, learning_rate_factor

N, D = 40, 6


class InterruptedFit(Exception):
    """Stands for Ctrl-C or a killed process."""


class Toy(nn.Module):
    """A regression with dropout, so that randomness inside the loss is under test too."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.linear = nn.Linear(D, 1)
        self.drop = nn.Dropout(0.3)
        self.shift = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.linear.weight.fill_(0.1)
            self.linear.bias.zero_()

    def forward(self, x):
        return self.linear(self.drop(x)).squeeze(-1) + self.shift


def problem():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, D, generator=generator)
    return x, x @ torch.arange(1.0, D + 1) + 1.0


def run(config=None, *, epochs_until_interrupt=None, with_validation=True, **options):
    """Train the toy; the interruption strikes inside the given epoch's first step."""
    x, y = problem()
    module, calls = Toy(), 0
    config = config or TrainConfig(epochs=6, batch_size=16, lr=0.05)
    steps = math.ceil(N / config.batch_size)

    def loss_fn(indices):
        nonlocal calls
        if epochs_until_interrupt is not None and calls >= epochs_until_interrupt * steps:
            raise InterruptedFit
        calls += 1
        return (module(x[indices]) - y[indices]).square().mean()

    def evaluate():
        return -float((module(x) - y).square().mean())

    result = fit_loop(module, loss_fn, N, config, evaluate=evaluate if with_validation else None, **options)
    return module, result


def state(module):
    return [tensor.detach().clone() for tensor in module.parameters()]


def assert_same_bits(left, right):
    assert all(torch.equal(a, b) for a, b in zip(state(left), state(right), strict=True))


def test_it_learns():
    _, result = run(TrainConfig(epochs=30, batch_size=16, lr=0.3, grad_clip=None))
    scores = [record.score[0] for record in result.history]
    assert scores[result.best_epoch] > scores[0] / 4


def test_learning_rate_rises_then_follows_the_cosine():
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1.0)
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.5)
    assert 0 <= factors[99] < 0.001
    assert learning_rate_factor(0, 1, 0.0) == 1.0


def test_same_seed_same_bits_and_other_seed_other_bits():
    first, again, other = run(seed=1)[0], run(seed=1)[0], run(seed=2)[0]
    assert_same_bits(first, again)
    assert not torch.equal(state(first)[0], state(other)[0])


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = run(seed=1)[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert_same_bits(first, run(seed=1)[0])


@pytest.mark.parametrize("killed_after", [1, 3, 5])
@pytest.mark.parametrize("with_validation", [True, False])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, killed_after, with_validation):
    whole, whole_result = run(with_validation=with_validation)
    with pytest.raises(InterruptedFit):
        run(epochs_until_interrupt=killed_after, checkpoint_dir=tmp_path, with_validation=with_validation)
    resumed, result = run(checkpoint_dir=tmp_path, with_validation=with_validation)
    assert result.resumed_from == killed_after
    assert_same_bits(whole, resumed)
    assert result.history == whole_result.history
    assert result.best_epoch == whole_result.best_epoch


def test_moments_come_back_in_the_memory_order_of_their_parameter(tmp_path):
    """The fused AdamW takes numbers as they lie: moments in another order than the parameter would be another's."""

    def fit(steps):
        module, calls = nn.Module(), 0
        module.turned = nn.Parameter(torch.zeros(3, D).T)

        def loss_fn(indices):
            nonlocal calls
            calls += 1
            if calls > steps:
                raise InterruptedFit
            return (problem()[0] @ module.turned - torch.arange(3.0)).square().mean()

        return module, lambda: fit_loop(module, loss_fn, N, TrainConfig(epochs=4, lr=0.1), checkpoint_dir=folder)

    folder = None
    whole, train = fit(99)
    train()
    folder = tmp_path
    with pytest.raises(InterruptedFit):
        fit(2)[1]()
    resumed, train = fit(99)
    assert train().resumed_from == 2
    assert_same_bits(whole, resumed)


def test_finished_run_is_not_trained_again(tmp_path):
    whole, _ = run(checkpoint_dir=tmp_path)
    again, _ = run(checkpoint_dir=tmp_path, epochs_until_interrupt=0)
    assert_same_bits(whole, again)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": TrainConfig(epochs=6, batch_size=16, lr=0.06)}, "config.lr was 0.05, is 0.06"),
        ({"seed": 5}, "seed was 0, is 5"),
        ({"identity": {"sha256": "b"}}, "data.sha256 was 'a', is 'b'"),
        ({"groups": [ParameterGroup(("shift",), lr=1.0)]}, "groups.0"),
    ],
)
def test_checkpoint_of_another_run_is_refused(tmp_path, change, named):
    run(checkpoint_dir=tmp_path, identity={"sha256": "a"})
    with pytest.raises(InputError, match="belongs to a different run") as caught:
        run(**{"identity": {"sha256": "a"}, **change}, checkpoint_dir=tmp_path)
    assert named in str(caught.value)


def test_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "fit.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(FileError, match=r"fit\.safetensors"):
        run(checkpoint_dir=tmp_path)


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    whole = run()[0]
    with pytest.raises(InterruptedFit):
        run(epochs_until_interrupt=2, checkpoint_dir=tmp_path)
    before = (tmp_path / "fit.safetensors").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match="No space left"):
            run(checkpoint_dir=tmp_path)
    assert (tmp_path / "fit.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "fit.safetensors"]
    assert_same_bits(whole, run(checkpoint_dir=tmp_path)[0])


def test_best_epoch_is_restored_and_ties_go_to_the_earlier():
    module, seen = Toy(), []
    scores = iter([0.0, 0.5, 0.9, 0.9, 0.2])

    def evaluate():
        seen.append(state(module))
        return next(scores)

    x, y = problem()
    result = fit_loop(
        module, lambda i: (module(x[i]) - y[i]).square().mean(), N, TrainConfig(epochs=4), evaluate=evaluate
    )
    assert result.best_epoch == 2
    assert all(torch.equal(a, b) for a, b in zip(state(module), seen[2], strict=True))


def test_no_epochs_keep_the_initial_state():
    module, result = run(TrainConfig(epochs=0))
    assert result.best_epoch == 0
    assert_same_bits(module, Toy())


def test_groups_have_their_own_rates():
    x, y = problem()
    module = Toy().eval()
    config = TrainConfig(epochs=1, batch_size=N, lr=0.1, weight_decay=0.0, warmup_fraction=0.0, grad_clip=None)
    groups = [ParameterGroup(("shift",), lr=0.5), ParameterGroup(("linear",), lr=0.01)]
    before = state(module)
    fit_loop(module, lambda i: (module(x[i]) - y[i]).square().mean(), N, config, groups=groups)
    moved = [float((new - old).abs().max()) for new, old in zip(state(module), before, strict=True)]
    # The first step of Adam moves every coordinate by the learning rate.
    names = [name for name, _ in module.named_parameters()]
    steps = dict(zip(names, moved, strict=True))
    assert steps["shift"] == pytest.approx(0.5, rel=1e-4)
    assert steps["linear.bias"] == pytest.approx(0.01, rel=1e-4)


def test_group_without_parameters_is_refused():
    with pytest.raises(InputError, match="matches no trainable parameter"):
        run(groups=[ParameterGroup(("nowhere",))])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ("loss", "loss"),
        ("gradient", "gradient of linear.weight"),
        ("parameter", "parameter shift"),
        ("score", "validation score"),
    ],
)
def test_nan_guard_names_the_tensor_and_loses_nothing(tmp_path, spoil, named):
    x, y = problem()
    module = Toy()
    states, epoch = [], 0

    def evaluate():
        nonlocal epoch
        states.append(state(module))
        epoch += 1
        return math.nan if spoil == "score" and epoch == 3 else float(epoch)

    def loss_fn(indices):
        loss = (module(x[indices]) - y[indices]).square().mean()
        if epoch < 2 or spoil == "score":
            return loss
        if spoil == "loss":
            return loss * math.nan
        if spoil == "gradient":
            # sqrt has an infinite slope at 0, and 0 * inf is NaN: the loss stays finite.
            return loss + (module.linear.weight.sum() * 0.0).sqrt()
        with torch.no_grad():
            module.shift.fill_(math.inf)
        return (module(x[indices]) - y[indices]).square().mean()

    with pytest.raises(TrainingDiverged) as caught:
        fit_loop(module, loss_fn, N, TrainConfig(epochs=5), evaluate=evaluate, checkpoint_dir=tmp_path)
    assert caught.value.tensor == named
    assert named in str(caught.value)
    assert caught.value.epoch == 2
    assert caught.value.result.best_epoch == 1
    assert all(torch.equal(a, b) for a, b in zip(state(module), states[1], strict=True))
    assert (tmp_path / "fit.safetensors").exists()


def test_amp_computes_the_loss_in_bfloat16():
    x, y = problem()
    module, dtypes = Toy(), set()

    def loss_fn(indices):
        out = module.linear(x[indices])
        dtypes.add(out.dtype)
        return (out.squeeze(-1).float() - y[indices]).square().mean() + 0 * module.shift

    fit_loop(module, loss_fn, N, TrainConfig(epochs=1, amp=True))
    assert dtypes == {torch.bfloat16}
    assert module.linear.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", -1), ("batch_size", 0), ("lr", 0.0), ("lr", math.nan), ("warmup_fraction", 1.5), ("grad_clip", "big")],
)
def test_config_names_the_bad_field(field, value):
    with pytest.raises(InputError, match=f"TrainConfig.{field} is"):
        TrainConfig(**{field: value})
