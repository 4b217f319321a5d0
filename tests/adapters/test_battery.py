"""One battery over every adapter: a new method is tested by its line in the registry."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from tests.adapters.problem import TAU, AttentionEncoder, make_problem
from vlmadapt.adapters import ADAPTERS, Adapter, create_adapter, explaining_adapters, load_adapter
from vlmadapt.adapters.trained import TrainedAdapter
from vlmadapt.errors import FileError, InputError

NAMES = list(ADAPTERS)
TABLE = (Path(__file__).resolve().parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
TRAINED = [name for name, adapter in ADAPTERS.items() if issubclass(adapter, TrainedAdapter)]
FITTED_FIRST = [name for name in NAMES if name != "zero-shot"]


def settings(name):
    """Small runs: four epochs of a few batches, coarse searches."""
    config = ADAPTERS[name].config_class
    known = {field for field, _, _ in config.describe()}
    wanted = {
        "epochs": 3,
        "batch_size": 8,
        "search_beta": (0.5, 8.0, 4),
        "search_alpha": (0.1, 10.0, 4),
        "search_w": (0.1, 1.0, 3),
        "context_tokens": 4,
        "steps": 20,
        "search_c": (1.0, 100.0, 3),
        "search_lam": (0.1, 1.0, 2),
        "parts": ("zero-shot", "ncm-1", "gda-0.1", "tip-adapter-f"),
        "folds": 2,
    }
    return {field: value for field, value in wanted.items() if field in known}


def make(name, problem, order=None, **extra):
    return create_adapter(name, **arguments(name, problem, order, **extra))


def arguments(name, problem, order=None, **extra):
    """``order`` renumbers the classes: class ``c`` becomes ``order[c]``."""
    classes = len(problem.text)
    rows = torch.arange(classes) if order is None else torch.argsort(order)
    return {
        "text_features": problem.text[rows],
        "logit_scale": TAU,
        "config": {**settings(name), **extra},
        "class_names": [f"class {row}" for row in rows],
        "encoder": AttentionEncoder(problem.text) if ADAPTERS[name].needs_encoder else None,
        "negative_text_features": problem.negative[rows],
    }


@pytest.fixture(scope="module")
def problem():
    return make_problem()


@pytest.fixture(scope="module", params=NAMES)
def fitted(request, problem):
    return make(request.param, problem).fit(*problem.fit_arguments)


def test_fit_returns_self(problem):
    for name in NAMES:
        adapter = make(name, problem)
        assert adapter.fit(problem.features, problem.labels) is adapter


def test_probabilities_sum_to_one_and_predict_is_their_argmax(fitted, problem):
    probabilities = fitted.predict_proba(problem.queries)
    assert probabilities.shape == (len(problem.queries), 5)
    assert bool(torch.isfinite(probabilities).all())
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(len(probabilities), dtype=torch.float64))
    predicted = fitted.predict(problem.queries)
    assert predicted.dtype == torch.int64
    assert torch.equal(predicted, probabilities.argmax(-1))


def test_it_does_better_than_guessing(fitted, problem):
    assert float((fitted.predict(problem.queries) == problem.query_labels).double().mean()) > 0.5


def test_forward_is_differentiable(fitted, problem):
    queries = problem.queries[:3].clone().requires_grad_()
    fitted(queries)[:, 0].sum().backward()
    assert queries.grad is not None and float(queries.grad.abs().sum()) > 0


def test_forward_before_fit_is_refused(fitted, problem):
    unfitted = fitted.another()
    if unfitted.fitted_:
        pytest.skip("has nothing to learn")
    with pytest.raises(InputError, match="is not fitted: call fit"):
        unfitted(problem.queries)


def test_arrays_lists_and_names_of_classes_are_taken_as_tensors_are(fitted, problem):
    names = [fitted.class_names[label] for label in problem.labels]
    twin = fitted.another().fit(
        problem.features.numpy(), names, problem.val_features.numpy(), problem.val_labels.numpy()
    )
    expected = fitted.another().fit(*problem.fit_arguments)
    assert torch.equal(twin.logits(problem.queries.numpy()), expected.logits(problem.queries))
    assert torch.equal(twin.predict(problem.queries.float().tolist()), expected.predict(problem.queries.float()))


def test_queries_do_not_influence_each_other(fitted, problem):
    whole = fitted.logits(problem.queries)
    torch.testing.assert_close(fitted.logits(problem.queries[4:5])[0], whole[4], rtol=1e-10, atol=1e-10)


def test_empty_batch(fitted, problem):
    assert fitted.predict_proba(problem.queries[:0]).shape == (0, 5)


def test_saved_and_loaded_is_bit_equal(fitted, problem, tmp_path):
    folder = fitted.save(tmp_path / "classifier")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]
    loaded = load_adapter(folder)
    assert type(loaded) is type(fitted)
    assert loaded.config == fitted.config
    assert loaded.class_names == fitted.class_names
    assert loaded.hyperparameters() == fitted.hyperparameters()
    assert torch.equal(loaded.logits(problem.queries), fitted.logits(problem.queries))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits(name, dtype):
    problem = make_problem(dtype=dtype)
    first, again = (make(name, problem).fit(*problem.fit_arguments, seed=3) for _ in range(2))
    assert first.text_features.dtype == dtype
    assert torch.equal(first.logits(problem.queries), again.logits(problem.queries))


@pytest.mark.parametrize("name", NAMES)
def test_fit_twice_is_fit_once(name, problem):
    other = make_problem(seed=5)
    twice = make(name, problem).fit(*other.fit_arguments).fit(*problem.fit_arguments)
    once = make(name, problem).fit(*problem.fit_arguments)
    assert torch.equal(twice.logits(problem.queries), once.logits(problem.queries))


@pytest.mark.parametrize("name", NAMES)
def test_global_random_state_is_neither_used_nor_changed(name, problem):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    make(name, problem).fit(*problem.fit_arguments)
    assert torch.equal(torch.get_rng_state(), before)


def test_order_of_the_samples_changes_nothing(fitted, problem):
    order = torch.randperm(len(problem.labels), generator=torch.Generator().manual_seed(0))
    shuffled = make(fitted.name, problem).fit(
        problem.features[order], problem.labels[order], problem.val_features.flip(0), problem.val_labels.flip(0)
    )
    assert torch.equal(shuffled.logits(problem.queries), fitted.logits(problem.queries))


def test_renumbered_classes_permute_the_columns(fitted, problem):
    renumber = torch.tensor([3, 0, 4, 1, 2])
    permuted = make(fitted.name, problem, renumber).fit(
        problem.features, renumber[problem.labels], problem.val_features, renumber[problem.val_labels]
    )
    tolerance = 1e-3 if fitted.name == "linear-probe" else 1e-8  # L-BFGS stops at a gradient, not at the minimum
    torch.testing.assert_close(
        permuted.logits(problem.queries)[:, renumber],
        fitted.logits(problem.queries),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("with_validation", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_ragged_and_missing_classes(name, with_validation, problem):
    ragged = problem.without_class(2)
    keep = torch.ones(len(ragged.labels), dtype=torch.bool)
    keep[ragged.labels == 4] = False
    keep[torch.nonzero(ragged.labels == 4)[0]] = True  # class 4 keeps one sample
    validation = (problem.val_features, problem.val_labels) if with_validation else ()
    adapter = make(name, problem).fit(ragged.features[keep], ragged.labels[keep], *validation)
    probabilities = adapter.predict_proba(problem.queries)
    assert bool(torch.isfinite(probabilities).all())
    if name == "linear-probe":
        assert float(probabilities[:, 2].abs().max()) == 0.0
    if name in explaining_adapters() and name not in ("hegraph", "auto"):  # whose text nodes move too; has other parts
        base = TAU * problem.queries @ problem.text.T
        torch.testing.assert_close(adapter.logits(problem.queries)[:, 2], base[:, 2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_one_shot(name):
    problem = make_problem(shots=1)
    adapter = make(name, problem).fit(*problem.fit_arguments)
    assert bool(torch.isfinite(adapter.predict_proba(problem.queries)).all())


@pytest.mark.parametrize("name", NAMES)
def test_two_classes(name):
    problem = make_problem(classes=2)
    adapter = make(name, problem).fit(*problem.fit_arguments)
    assert float((adapter.predict(problem.queries) == problem.query_labels).double().mean()) > 0.6


def bad_inputs(problem):
    nan = problem.features.clone()
    nan[3, 1] = float("nan")
    zero = problem.features.clone()
    zero[2] = 0.0
    outside = problem.labels.clone()
    outside[1] = 5
    negative = problem.labels.clone()
    negative[1] = -1
    return {
        "label out of range": ((problem.features, outside), "labels holds 5 at index 1 but there are 5 classes"),
        "negative label": ((problem.features, negative), "labels holds -1 at index 1"),
        "NaN features": ((nan, problem.labels), "features holds NaN at index [3, 1]"),
        "zero norm": ((zero, problem.labels), "features row 2 has norm zero"),
        "width": ((problem.features[:, :9], problem.labels), "features is 9 wide but text_features is 24 wide"),
        "integer features": ((problem.features.long(), problem.labels), "give floating-point features"),
        "float labels": ((problem.features, problem.labels.double()), "give integer class numbers"),
        "lengths": ((problem.features, problem.labels[1:]), "give one label for each of the 20 feature rows"),
        "one row": ((problem.features[0], problem.labels[:1]), "give a matrix"),
        "no rows": ((problem.features[:0], problem.labels[:0]), "features has no rows"),
        "rows of other lengths": (
            ([[1.0], [1.0, 2.0]], problem.labels[:2]),
            "features is a list: give a floating-point",
        ),
        "objects": ((object(), problem.labels), "features is a object"),
        "complex numbers": ((problem.features.numpy() * 1j, problem.labels), "features is a ndarray"),
        "words that are no classes": ((problem.features, ["yak"] * 20), "labels holds 'yak', which is no class"),
        "no labels": ((problem.features, None), "labels is a NoneType"),
        "pictures": ((["a.png"], problem.labels[:1]), "features holds pictures but the adapter has no encoder"),
        "half a validation set": (
            (problem.features, problem.labels, problem.val_features, None),
            "val_features and val_labels belong together",
        ),
        "validation label": (
            (problem.features, problem.labels, problem.val_features, problem.val_labels + 3),
            "val_labels holds 5",
        ),
        "validation NaN": (
            (problem.features, problem.labels, nan, problem.labels),
            "val_features holds NaN",
        ),
    }


@pytest.mark.parametrize("case", list(bad_inputs(make_problem())))
def test_bad_input_is_one_sentence_and_changes_nothing(fitted, case, problem):
    if case == "pictures" and fitted.needs_encoder:
        pytest.skip("has an encoder, so that pictures are welcome")
    before = fitted.logits(problem.queries)
    arguments, sentence = bad_inputs(problem)[case]
    with pytest.raises(InputError) as caught:
        fitted.fit(*arguments)
    message = str(caught.value)
    assert sentence in message
    assert message.endswith(".") and "\n" not in message
    assert torch.equal(fitted.logits(problem.queries), before)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((make_problem().text[:1], TAU), "a classifier needs at least two classes"),
        ((make_problem().text * float("nan"), TAU), "text_features holds NaN"),
        ((make_problem().text, 0.0), "logit_scale is 0.0"),
        ((make_problem().text, 1e300), "logit_scale is 1e+300: give the encoder's logit scale, at most 1e+06"),
        ((make_problem().text * 1e30, TAU), "text_features row 0 is longer than float32 can tell"),
        ((make_problem().text, TAU, None, ["cat"]), "class_names has 1 entries for 5 rows"),
        ((make_problem().text, TAU, {"betta": 1.0}), "config has no field 'betta'"),
        ((make_problem().text, TAU, 3), "config is a int"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_construction_is_one_sentence(name, arguments, sentence):
    with pytest.raises(InputError) as caught:
        ADAPTERS[name](*arguments)
    assert sentence in str(caught.value)


def test_a_scale_that_is_its_logarithm_is_noticed():
    with pytest.warns(UserWarning, match=r"logit_scale is 4\.6052, which looks like the logarithm .* 100\."):
        create_adapter("zero-shot", make_problem().text, 4.6052)


@pytest.mark.parametrize("name", FITTED_FIRST)
def test_unfitted_adapter_says_so(name, problem, tmp_path):
    adapter = make(name, problem)
    for call in (lambda: adapter.predict(problem.queries), lambda: adapter.save(tmp_path / "x")):
        with pytest.raises(InputError, match=re.escape(f"this {name} adapter is not fitted")):
            call()
    assert not (tmp_path / "x").exists()


def test_unknown_name_lists_the_known(problem):
    with pytest.raises(InputError, match="there is no adapter 'tip': use one of zero-shot, linear-probe"):
        create_adapter("tip", problem.text, TAU)


class InterruptedFit(Exception):
    """Stands for Ctrl-C or a killed process."""


@pytest.mark.parametrize("name", TRAINED)
def test_interrupted_fit_resumes_to_the_same_result(name, problem, tmp_path, monkeypatch):
    whole = make(name, problem).fit(*problem.fit_arguments, seed=2)
    calls = 0
    method = ADAPTERS[name]
    assert issubclass(method, TrainedAdapter)
    original = method._loss

    def interrupted(self, support, indices):
        nonlocal calls
        calls += 1
        if calls == 8:  # three steps an epoch: in the middle of the third and last
            raise InterruptedFit
        return original(self, support, indices)

    with monkeypatch.context() as patch:
        patch.setattr(method, "_loss", interrupted)
        with pytest.raises(InterruptedFit):
            make(name, problem).fit(*problem.fit_arguments, seed=2, checkpoint_dir=tmp_path)
    # The same samples in another order are the same run.
    resumed = make(name, problem).fit(
        problem.features.flip(0),
        problem.labels.flip(0),
        problem.val_features,
        problem.val_labels,
        seed=2,
        checkpoint_dir=tmp_path,
    )
    assert resumed.train_result_.resumed_from == 2
    assert torch.equal(resumed.logits(problem.queries), whole.logits(problem.queries))


@pytest.mark.parametrize("name", TRAINED)
def test_checkpoint_of_other_data_is_refused(name, problem, tmp_path):
    make(name, problem).fit(*problem.fit_arguments, checkpoint_dir=tmp_path)
    other = make_problem(seed=9)
    with pytest.raises(InputError, match="belongs to a different run"):
        make(name, problem).fit(*other.fit_arguments, checkpoint_dir=tmp_path)


@pytest.mark.parametrize("failing_call", [1, 2])
def test_full_disk_while_saving_leaves_the_old_pair(fitted, problem, tmp_path, monkeypatch, failing_call):
    other = make(fitted.name, problem).fit(problem.features[:15], problem.labels[:15])
    other.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = os.fsync, 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        fitted.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert torch.equal(load_adapter(tmp_path).logits(problem.queries), other.logits(problem.queries))


def test_damaged_or_missing_files_are_named(fitted, problem, tmp_path):
    with pytest.raises(FileError, match=r"adapter\.json"):
        load_adapter(tmp_path)
    fitted.save(tmp_path)
    tensors = tmp_path / "adapter.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FileError, match=r"adapter\.safetensors is not the file adapter\.json was written with"):
        load_adapter(tmp_path)
    tensors.unlink()
    with pytest.raises(FileError, match=r"adapter\.safetensors"):
        load_adapter(tmp_path)


def test_loading_as_the_wrong_kind_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    wrong = next(adapter for adapter in ADAPTERS.values() if not isinstance(fitted, adapter))
    with pytest.raises(InputError, match="use load_adapter"):
        wrong.load(tmp_path)
    assert isinstance(Adapter.load(tmp_path), type(fitted))


@pytest.mark.parametrize("fitted", sorted(set(NAMES) - set(explaining_adapters())), indirect=True)
def test_who_can_explain_is_named(fitted, problem):
    with pytest.raises(InputError, match="use tip-adapter, tip-adapter-f, xmadapter, hegraph, auto"):
        fitted.explain(problem.queries)


@pytest.mark.parametrize("fitted", explaining_adapters(), indirect=True)
def test_votes(fitted, problem):
    with pytest.raises(InputError, match="top is 0"):
        fitted.explain(problem.queries, top=0)
    labels = torch.cat([problem.labels, problem.val_labels])
    for votes in fitted.explain(problem.queries[:3], top=4):
        assert len(votes) == 4
        assert [vote.affinity for vote in votes] == sorted((vote.affinity for vote in votes), reverse=True)
        for vote in votes:
            assert vote.label == int(labels[vote.support_index])
            assert vote.class_name == f"class {vote.label}"
            assert 0 < vote.class_share <= 1
            assert vote.stream in ("image", "text")


@pytest.mark.parametrize("fitted", explaining_adapters(), indirect=True)
def test_shares_of_a_class_sum_to_one(fitted, problem):
    votes = fitted.explain(problem.queries[:1], top=len(problem.labels) + len(problem.val_labels))[0]
    for label in range(5):
        assert sum(vote.class_share for vote in votes if vote.label == label) == pytest.approx(1.0)


def test_the_docs_table_counts_the_trained_parameters(fitted):
    if fitted.name == "auto":
        assert fitted.trainable_parameters() == sum(part.trainable_parameters() for part in fitted.parts.values())
        return
    row = re.search(rf"^\| `{re.escape(fitted.name)}` \| (nothing|`[^`]+`)", TABLE, re.MULTILINE)
    assert row is not None
    product = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", row[1].strip("`").replace("nothing", "0").replace("^", "**"))
    assert fitted.trainable_parameters() == eval(product, {"C": 5, "D": 24, "n": 20, "M": 4, "E": 24, "L": 2})


@pytest.mark.parametrize("name", NAMES)
def test_every_config_field_has_help(name):
    for field, _, help_text in ADAPTERS[name].config_class.describe():
        assert help_text, field


def test_probabilities_are_calibrated_and_certainty_has_a_threshold(fitted, problem, tmp_path):
    """On validation, or held-out samples; both are saved."""
    logits = fitted.logits(problem.queries)
    torch.testing.assert_close(fitted.predict_proba(problem.queries), (logits / fitted.temperature_).softmax(-1))
    held = len(problem.val_labels) + len(problem.labels) * fitted.trains_on_validation
    assert len(fitted.certainties_) == held and list(fitted.certainties_) == sorted(fitted.certainties_)
    assert fitted.least_certainty(0) == fitted.certainties_[0]
    for rate in (0.1, 0.5):
        lost = sum(certainty < fitted.least_certainty(rate) for certainty in fitted.certainties_)
        assert lost <= rate * held
    loaded = load_adapter(fitted.save(tmp_path))
    assert (loaded.temperature_, loaded.certainties_) == (fitted.temperature_, fitted.certainties_)
    with pytest.raises(InputError, match=r"abstain is 1\.5: give the share"):
        fitted.least_certainty(1.5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "auto"])
def test_without_validation_nothing_is_calibrated(name, problem):
    adapter = make(name, problem).fit(problem.features, problem.labels)
    assert adapter.temperature_ == 1.0
    with pytest.raises(InputError, match="fit it again with validation samples to abstain"):
        adapter.least_certainty(0.1)


def test_hyperparameters_are_plain_numbers(fitted):
    assert all(isinstance(value, float) for value in fitted.hyperparameters().values())
