"""Methods without class text: what they compute then, and that those which cannot say so in a sentence."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from tests.adapters import loops
from tests.adapters.problem import TAU, make_problem
from tests.adapters.test_battery import settings
from vlmadapt.adapters import ADAPTERS, NoText, adapters_without_text, create_adapter, load_adapter
from vlmadapt.adapters.auto.parts import PARTS, differing
from vlmadapt.adapters.hegraph.view import pulled_apart, strongest_edges
from vlmadapt.adapters.trained import TrainedAdapter
from vlmadapt.errors import FileError, InputError
from vlmadapt.weights import read_pair, write_pair

ABLE = ["linear-probe", "ncm", "gda", "proker", "tip-adapter", "tip-adapter-f", "hegraph", "auto"]
CLASSES, WIDTH = 5, 10
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def problem():
    return make_problem(classes=CLASSES, width=WIDTH)


def make(name, classes=CLASSES, width=WIDTH, dtype=torch.float64, **config):
    return create_adapter(name, NoText(classes, width, dtype), TAU, config or settings(name))


@pytest.fixture(scope="module", params=ABLE)
def fitted(request, problem):
    return make(request.param).fit(*problem.fit_arguments)


def rows(tensor):
    return tensor.detach().tolist()


def compare(adapter, problem, scores):
    expected = torch.tensor([scores(query) for query in rows(problem.queries)], dtype=torch.float64)
    torch.testing.assert_close(adapter.logits(problem.queries), expected, **EXACT)


# What each computes, in loops.


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f"])
def test_tip_adapter_is_its_class_sums(problem, name):
    config = {"alpha": 2.0, "beta": 3.0, **({"epochs": 0} if name.endswith("f") else {})}
    adapter = make(name, **config).fit(problem.features, problem.labels)
    samples, labels = rows(problem.features), problem.labels.tolist()
    nothing = [[0.0] * WIDTH] * CLASSES
    compare(adapter, problem, lambda query: loops.tip_logits(query, nothing, samples, labels, TAU, 3.0, 2.0))


def test_gda_is_the_gaussian_classifier(problem):
    adapter = make("gda", alpha=1.0).fit(problem.features, problem.labels)
    samples, labels = rows(problem.features), problem.labels.tolist()
    compare(adapter, problem, lambda query: loops.gda_scores(query, samples, labels, CLASSES))


def test_proker_is_kernel_ridge_regression_of_the_labels(problem):
    beta, lam = 4.0, 0.5
    adapter = make("proker", beta=beta, lam=lam).fit(problem.features, problem.labels)
    samples, labels = rows(problem.features), problem.labels.tolist()

    def kernel(a, b):
        return math.exp(-beta * (1 - loops.dot(a, b)))

    regular = [[kernel(a, b) / lam + (i == j) for j, b in enumerate(samples)] for i, a in enumerate(samples)]
    values = [loops.solve(regular, [float(label == c) for label in labels]) for c in range(CLASSES)]
    compare(adapter, problem, lambda query: [TAU * loops.dot([kernel(query, s) for s in samples], a) for a in values])


@pytest.mark.parametrize("centre", [True, False])
def test_ncm_is_that_with_text_off(problem, centre):
    adapter = make("ncm", centre=centre).fit(*problem.fit_arguments)
    off = create_adapter("ncm", problem.text, TAU, {"centre": centre, "text": False}).fit(*problem.fit_arguments)
    assert torch.equal(adapter.logits(problem.queries), off.logits(problem.queries))


def test_the_linear_probe_is_the_same_with_text(problem):
    config = settings("linear-probe")
    with_text = create_adapter("linear-probe", problem.text, TAU, config).fit(*problem.fit_arguments)
    assert torch.equal(
        make("linear-probe").fit(*problem.fit_arguments).logits(problem.queries), with_text.logits(problem.queries)
    )


def hegraph_bias(nodes, weight):
    """u of the visual nodes alone; a class without pictures has a node of zeros, which nothing resembles."""
    size = len(nodes)

    def relation(i, j):
        return 0.0 if i == j or not any(nodes[i]) or not any(nodes[j]) else loops.cosine(nodes[i], nodes[j])

    degree = [math.fsum(abs(relation(i, j)) for j in range(size)) for i in range(size)]
    inputs = [[0.0] * WIDTH for _ in nodes]
    for i in range(size):
        for j, node in enumerate(nodes):
            share = relation(i, j) / math.sqrt((degree[i] + 1) * (degree[j] + 1))
            inputs[i] = [h + share * x for h, x in zip(inputs[i], node, strict=True)]
    return loops.messages(inputs, weight)


@pytest.mark.parametrize("graph", ["dense", "factorised", "sparse"])
@pytest.mark.parametrize("fusion", ["logit", "probability"])
@pytest.mark.parametrize("missing", [None, 2])
def test_hegraph_is_the_graph_of_the_visual_nodes(problem, fusion, graph, missing):
    known = problem if missing is None else problem.without_class(missing)
    adapter = make("hegraph", fusion=fusion, alpha=3.0, w=0.7, beta=2.0, epochs=4, batch_size=8, graph=graph, lr=0.1)
    adapter.fit(known.features, known.labels)
    samples, labels = rows(known.features), known.labels.tolist()
    means = loops.means_of_classes(samples, labels, CLASSES)
    bias = hegraph_bias([loops.unit(mean) if mean else [0.0] * WIDTH for mean in means], rows(adapter.to_visual.weight))
    assert float(adapter.to_visual.weight.detach().abs().max()) > 1e-6  # it has learned something
    keys = [[x + 0.5 * u for x, u in zip(s, bias[c], strict=True)] for s, c in zip(samples, labels, strict=True)]
    for query, found in zip(rows(problem.queries), adapter.predict_proba(problem.queries), strict=True):
        scores = [0.0] * CLASSES
        for key, label in zip(keys, labels, strict=True):
            scores[label] += math.exp(2.0 * (loops.cosine(query, key) - 1))
        if fusion == "logit":
            expected = loops.softmax([3.0 * score for score in scores])
        else:
            visual = loops.softmax([TAU * score for score in scores])
            expected = [(1 / CLASSES + 0.7 * p) / 1.7 for p in visual]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_hegraph_trains_one_map_and_none_where_nothing_is_left(problem, tmp_path):
    adapter = make("hegraph", epochs=2).fit(problem.features, problem.labels)
    assert adapter.trainable_parameters() == WIDTH**2
    loaded = load_adapter(adapter.save(tmp_path))
    assert loaded.trainable_parameters() == WIDTH**2 and pulled_apart(loaded, 3) == []  # type: ignore[arg-type]
    edges = strongest_edges(loaded, range(CLASSES), 4)  # type: ignore[arg-type]
    assert {edge.relation for edge in edges} == {"vv"}
    for nothing in ({"visual_bias": 0.0}, {"visual_loss": 0.0}):
        idle = make("hegraph", epochs=2, **nothing).fit(*problem.fit_arguments)
        assert idle.train_result_ is None and not bool(idle.to_visual.weight.any())


def test_a_graph_without_messages_can_be_fitted_and_saved_with_text_too(problem, tmp_path):
    none = ("positive_to_positive", "visual_to_positive", "negative_to_positive", "negative_to_positive_test")
    config = {"epochs": 2, "visual_bias": 0.0, **dict.fromkeys(none, 0.0)}
    adapter = create_adapter("hegraph", problem.text, TAU, config, negative_text_features=problem.negative)
    adapter.fit(*problem.fit_arguments)
    loaded = load_adapter(adapter.save(tmp_path))
    assert torch.equal(loaded.logits(problem.queries), adapter.logits(problem.queries))


def test_auto_mixes_the_parts_that_can_do_without(problem):
    adapter = make("auto", folds=2).fit(*problem.fit_arguments)
    usable = ["linear-probe", "ncm-0.1", "gda-0.01", "proker-0.1", "proker-1", "tip-adapter-f", "hegraph"]
    assert set(adapter.shares()) <= set(usable)  # type: ignore[attr-defined]
    assert sorted([*adapter.left_out, *usable]) == sorted(PARTS)  # type: ignore[operator, list-item]
    assert all(not part.has_text for part in adapter.parts.values())  # type: ignore[union-attr, operator]
    with pytest.raises(InputError, match="without text_features nothing of it can be fitted, name another part too"):
        make("auto", parts=("zero-shot", "taskres"))
    assert list(make("auto", parts=("gda-1", "ncm-1", "gda-0.1")).parts) == ["gda-1", "ncm-1"]  # type: ignore[arg-type]


def test_parts_differ_where_more_than_their_weight_does():
    assert list(differing(PARTS)) == [name for name in PARTS if name not in ("ncm-1", "gda-0.1", "gda-1")]


# What all have in common.


def test_which_can(problem):
    assert adapters_without_text() == ABLE
    sentence = f" needs class text, and there is none here: give text_features, or use {', '.join(ABLE)}."
    for name in ADAPTERS.keys() - set(ABLE):
        with pytest.raises(InputError, match=re.escape(name + sentence)):
            ADAPTERS[name](NoText(CLASSES, WIDTH), TAU)


def test_it_classifies_and_certainty_can_be_asked(fitted, problem):
    assert float((fitted.predict(problem.queries) == problem.query_labels).double().mean()) > 0.5
    probabilities = fitted.predict_proba(problem.queries)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(len(probabilities), dtype=torch.float64))
    assert 0 < fitted.least_certainty(0.1) <= 1
    queries = problem.queries[:3].clone().requires_grad_()
    fitted(queries)[:, 0].sum().backward()
    assert queries.grad is not None and float(queries.grad.abs().sum()) > 0


def test_saved_and_loaded_is_bit_equal(fitted, problem, tmp_path):
    loaded = load_adapter(fitted.save(tmp_path))
    assert not loaded.has_text and not bool(loaded.text_features.any())
    assert torch.equal(loaded.logits(problem.queries), fitted.logits(problem.queries))
    assert loaded.hyperparameters() == fitted.hyperparameters()
    header, state = read_pair(tmp_path)
    state["text_features"] = torch.ones(CLASSES, WIDTH, dtype=torch.float64)
    write_pair(tmp_path, state, {name: value for name, value in header.items() if name != "format_version"})
    with pytest.raises(FileError, match="it says that it has no text, and holds some"):
        load_adapter(tmp_path)


def test_order_of_the_samples_changes_nothing_and_renumbered_classes_permute(fitted, problem):
    order = torch.randperm(len(problem.labels), generator=torch.Generator().manual_seed(0))
    shuffled = make(fitted.name).fit(
        problem.features[order], problem.labels[order], problem.val_features.flip(0), problem.val_labels.flip(0)
    )
    assert torch.equal(shuffled.logits(problem.queries), fitted.logits(problem.queries))
    renumber = torch.tensor([3, 0, 4, 1, 2])
    permuted = make(fitted.name).fit(
        problem.features, renumber[problem.labels], problem.val_features, renumber[problem.val_labels]
    )
    tolerance = 1e-3 if fitted.name == "linear-probe" else 1e-8
    torch.testing.assert_close(
        permuted.logits(problem.queries)[:, renumber], fitted.logits(problem.queries), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("with_validation", [True, False])
@pytest.mark.parametrize("name", ABLE)
def test_a_class_without_samples(name, with_validation, problem):
    ragged = problem.without_class(2)
    validation = (problem.val_features, problem.val_labels) if with_validation else ()
    adapter = make(name).fit(ragged.features, ragged.labels, *validation)
    probabilities = adapter.predict_proba(problem.queries)
    assert bool(torch.isfinite(probabilities).all())
    if not with_validation:  # of which auto and a temperature know the class
        assert not bool((adapter.predict(problem.queries) == 2).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ABLE)
def test_one_shot_of_two_classes_in_either_precision(name, dtype):
    problem = make_problem(classes=2, shots=1, width=WIDTH, dtype=dtype)
    adapter = make(name, classes=2, dtype=dtype).fit(*problem.fit_arguments)
    assert adapter.logits(problem.queries).dtype == dtype
    assert float((adapter.predict(problem.queries) == problem.query_labels).double().mean()) > 0.6


@pytest.mark.parametrize("name", [name for name in ABLE if issubclass(ADAPTERS[name], TrainedAdapter)])
def test_a_checkpoint_with_text_is_another_run(name, problem, tmp_path):
    make(name).fit(*problem.fit_arguments, checkpoint_dir=tmp_path)
    negative = {"negative_text_features": problem.negative} if ADAPTERS[name].needs_negatives else {}
    other = create_adapter(name, problem.text, TAU, settings(name), **negative)
    with pytest.raises(InputError, match="belongs to a different run"):
        other.fit(*problem.fit_arguments, checkpoint_dir=tmp_path)


@pytest.mark.parametrize("name", ABLE)
def test_a_fit_on_all_labelled_samples(name, problem, tmp_path):
    adapter = make(name).fit_on_all(*problem.fit_arguments, repeats=1)
    assert not adapter.has_text and adapter.held_out_accuracy_ > 0.5
    assert torch.equal(load_adapter(adapter.save(tmp_path)).logits(problem.queries), adapter.logits(problem.queries))


def test_alpha_only_scales_so_that_its_edge_says_nothing(problem):
    adapter = make("gda", search_alpha=(1e-6, 2e-6, 2)).fit(*problem.fit_arguments)
    assert adapter.at_edges() == {} and adapter.hyperparameters()["alpha"] > 2e-6  # searched beyond, as ever
    assert torch.equal(
        adapter.predict(problem.queries), make("gda").fit(*problem.fit_arguments).predict(problem.queries)
    )
    with_text = create_adapter("gda", problem.text, TAU, {"search_alpha": (0.01, 0.02, 2)})
    assert with_text.fit(*problem.fit_arguments).at_edges() == {"alpha": "search_alpha"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1, 8), "NoText.classes is 1: give a whole number of at least 2"),
        ((3, 0), "NoText.width is 0: give a whole number of at least 1"),
        ((True, 8), "NoText.classes is True"),
        ((3, 8, torch.float16), "NoText.dtype is torch.float16: give torch.float32 or torch.float64"),
    ],
)
def test_what_is_no_number_of_classes(arguments, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        NoText(*arguments)


def test_what_does_not_fit(problem):
    with pytest.raises(InputError, match="features is 10 wide but NoText is 9 wide"):
        create_adapter("gda", NoText(5, 9), TAU).fit(problem.features, problem.labels)
    with pytest.raises(InputError, match="negative_text_features is given without text_features"):
        create_adapter("hegraph", NoText(5, 10), TAU, negative_text_features=problem.negative)
    with pytest.raises(InputError, match=r"class_names has 1 entries for 5 rows"):
        create_adapter("gda", NoText(5, 10), TAU, class_names=["cat"])
