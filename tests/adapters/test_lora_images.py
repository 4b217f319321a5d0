"""CLIP-LoRA on both towers: what it learns from pictures, and that they are seen with the adapted tower alone."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from tests.adapters.clip_model import random_clip
from tests.adapters.problem import TAU, AttentionEncoder, make_problem
from tests.experiments.world import make_world
from vlmadapt import Classifier
from vlmadapt.adapters import CLIPLoRA, load_adapter
from vlmadapt.adapters.images import encode_pictures
from vlmadapt.adapters.lora.tower import twin
from vlmadapt.adapters.lora.towers import shows_images
from vlmadapt.backbones import class_text_features
from vlmadapt.data import Extraction, FeatureCache, load_dataset
from vlmadapt.data.types import Row
from vlmadapt.errors import InputError
from vlmadapt.experiments.features import seen_by
from vlmadapt.experiments.front import evaluate
from vlmadapt.experiments.protocol import run_protocol
from vlmadapt.experiments.single import fit_classifier
from vlmadapt.provenance.settings import parse_method

pytest.importorskip("peft", reason="pip install 'vlmadapt[lora]'")

NAMES = ["cat", "dog", "tree"]
QUICK = "clip-lora:lr=0.01:epochs=3:batch_size=4"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Any:
    return random_clip(tmp_path_factory.mktemp("two-towers"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """Twelve, of three classes in turn: noise in three colours."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 120, (40, 48, 3))
        noise[:, :, number % 3] += 130
        paths.append(folder / f"{number}.png")
        Image.fromarray(noise.astype(np.uint8)).save(paths[-1])
    return paths


LABELS = torch.arange(12) % 3


def lora(encoder: Any, **settings: Any) -> Any:
    text = class_text_features(encoder, NAMES, ["a photo of a {}."])
    chosen = {"lr": 0.01, "epochs": 4, "batch_size": 4, **settings}
    return CLIPLoRA(text, TAU, chosen, class_names=NAMES, encoder=encoder)


@pytest.fixture(scope="module")
def fitted(encoder, pictures) -> Any:
    return lora(encoder, epochs=20).fit(pictures[:9], LABELS[:9])


def add_by_hand(tower: nn.Module, down: Any, up: Any, config: Any) -> None:
    attentions = [each for each in tower.modules() if isinstance(each, nn.MultiheadAttention)]
    deltas = config.alpha / math.sqrt(config.rank) * (up @ down).detach()
    for attention, three in zip(attentions, deltas.split(3), strict=True):
        weight = attention.in_proj_weight + three.flatten(0, 1)  # query, key and value, one below the other
        attention.in_proj_weight = nn.Parameter(weight, requires_grad=False)


def test_both_towers_are_those_with_the_updates_added_to_their_weights(encoder, fitted, pictures):
    assert fitted.down.shape == (6, 2, 16) and fitted.image_down.shape == (3, 2, 64)
    assert min(float(each.detach().abs().max()) for each in (fitted.up, fitted.image_up)) > 1e-3
    by_hand = twin(encoder)
    add_by_hand(by_hand.text_module(), fitted.down, fitted.up, fitted.config)
    add_by_hand(by_hand.image_module(), fitted.image_down, fitted.image_up, fitted.config)
    text = by_hand.encode_texts([f"a photo of a {name}." for name in NAMES])
    expected = TAU * normalize(encode_pictures("x", pictures, by_hand), dim=-1) @ text.T
    torch.testing.assert_close(fitted.logits(pictures), expected, rtol=1e-4, atol=1e-3)
    opened = [Image.open(path) for path in pictures]
    torch.testing.assert_close(fitted.logits(opened), fitted.logits(pictures))
    as_it_was = fitted.logits(encode_pictures("x", pictures, encoder))
    assert not torch.allclose(as_it_was, expected, atol=0.1)
    of_adapted = encode_pictures("x", pictures, fitted.encoder_for(encoder))
    torch.testing.assert_close(fitted.logits(of_adapted), fitted.logits(pictures))


def test_it_learns_and_the_encoder_stays_as_it_was(encoder, pictures):
    kinds = [type(module) for module in encoder.model.modules()]
    state = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    adapter = lora(encoder, epochs=30).fit(pictures, LABELS)
    first, *_, last = (record.loss for record in adapter.train_result_.history[1:])
    assert last < first - 0.1
    assert [type(module) for module in encoder.model.modules()] == kinds
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.model.state_dict().items())
    assert not any(weight.requires_grad for weight in encoder.model.parameters())


def test_a_fit_starts_at_zero_shot(encoder, pictures):
    adapter = lora(encoder, epochs=0).fit(pictures, LABELS)
    expected = TAU * encode_pictures("x", pictures, encoder) @ adapter.text_features.T
    torch.testing.assert_close(adapter.logits(pictures), expected, rtol=1e-4, atol=1e-3)


def test_every_step_sees_another_view(encoder, pictures, monkeypatch):
    seen = []
    augment = type(encoder).augment

    def watched(self, image, generator):
        seen.append(augment(self, image, generator))
        return seen[-1]

    monkeypatch.setattr(type(encoder), "augment", watched)
    lora(encoder, epochs=2).fit(pictures[:4], LABELS[:4])
    assert len(seen) == 8 and len({view.numpy().tobytes() for view in seen}) == 8


@pytest.mark.parametrize("towers", ["text", "image"])
def test_one_tower_alone(encoder, pictures, towers, tmp_path):
    adapter = lora(encoder, towers=towers).fit(pictures, LABELS)
    left = {"text": ("image_down", "image_up"), "image": ("down", "up")}[towers]
    assert all(getattr(adapter, name) is None for name in left)
    assert adapter.adapts_images is (towers == "image")
    unchanged = torch.allclose(adapter.classifier, adapter.text_features, atol=1e-5)
    assert unchanged is (towers == "image")
    if towers == "text":
        features = lora(encoder).fit(encode_pictures("x", pictures, encoder), LABELS)
        torch.testing.assert_close(adapter.classifier, features.classifier)
        assert adapter.encoder_for(encoder) is encoder
    loaded: Any = load_adapter(adapter.save(tmp_path), encoder)
    assert torch.equal(loaded.logits(pictures), adapter.logits(pictures))
    other = adapter.for_classes(adapter.text_features[:2], NAMES[:2])
    torch.testing.assert_close(other.logits(pictures), adapter.logits(pictures)[:, :2], rtol=1e-4, atol=1e-3)


def test_both_towers_are_saved_and_need_no_peft_to_predict(encoder, fitted, pictures, tmp_path, monkeypatch):
    folder = fitted.save(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded: Any = load_adapter(folder, encoder)
    names = {"text_features", "classifier", "down", "up", "image_down", "image_up"}
    assert loaded.state_dict().keys() == names
    assert torch.equal(loaded.logits(pictures), fitted.logits(pictures))
    assert loaded.encoder_for(encoder).fingerprint == fitted.encoder_for(encoder).fingerprint != encoder.fingerprint
    assert loaded.encoder_for(encoder) is loaded.encoder_for(encoder)
    with pytest.raises(InputError, match="has no encoder"):
        load_adapter(folder).logits(pictures)


def test_validation_pictures_are_seen_with_the_adapted_tower(encoder, fitted, pictures):
    adapter = lora(encoder, epochs=20).fit(pictures[:9], LABELS[:9], pictures[9:], LABELS[9:])
    assert torch.equal(adapter.image_up, fitted.image_up)  # they choose nothing
    expected = (adapter.logits(pictures[9:]) / adapter.temperature_).softmax(-1).amax(-1)
    assert sorted(expected.tolist()) == pytest.approx(list(adapter.certainties_), abs=1e-5)


def test_on_all_pictures(encoder, pictures):
    adapter = lora(encoder, epochs=1)
    seen = []
    fit = CLIPLoRA._fit

    def watched(self, support, *rest):
        seen.append(len(support.pictures))
        fit(self, support, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLIPLoRA, "_fit", watched)
        adapter.fit_on_all(pictures[:6], LABELS[:6], pictures[6:], LABELS[6:], folds=2, repeats=1)
    assert seen == [6, 6, 6, 12] and len(adapter.certainties_) == 12 and adapter.adapts_images


def test_an_interrupted_fit_ends_bit_for_bit_as_it_would_have(encoder, pictures, tmp_path):
    whole = lora(encoder).fit(pictures, LABELS)
    adapter, count = lora(encoder), 0
    original = CLIPLoRA._loss

    def interrupted(self, *arguments):
        nonlocal count
        count += 1
        if count > 7:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLIPLoRA, "_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            adapter.fit(pictures, LABELS, checkpoint_dir=tmp_path)
    again = lora(encoder).fit(pictures, LABELS, checkpoint_dir=tmp_path)
    assert again.train_result_.resumed_from == 2
    assert torch.equal(again.image_up, whole.image_up) and torch.equal(again.up, whole.up)


def test_what_is_given_decides_where_nothing_is_said(encoder, pictures, tmp_path):
    features = encode_pictures("x", pictures, encoder)
    assert not lora(encoder).fit(features, LABELS).adapts_images
    assert lora(encoder).wants_pictures and not lora(encoder, towers="text").wants_pictures
    # Maps of an attention pool are used without being called.
    residual = random_clip(tmp_path, image_size=32, layers=[1, 1, 1, 1], width=16, patch_size=None)
    assert not shows_images(residual) and not lora(residual).wants_pictures
    assert not lora(residual, epochs=1).fit(pictures, LABELS).adapts_images
    with pytest.raises(InputError, match="shows no image tower with attention that could be adapted: set towers=text"):
        lora(residual, towers="both").fit(pictures, LABELS)


def test_what_cannot_be_is_one_sentence(encoder, fitted, pictures):
    features = encode_pictures("x", pictures, encoder)
    with pytest.raises(InputError, match="features holds features, which no image tower learns from: give pictures"):
        lora(encoder, towers="both").fit(features, LABELS)
    with pytest.raises(InputError, match="val_features holds features, which no image tower learns from"):
        lora(encoder).fit(pictures, LABELS, features, LABELS)
    with pytest.raises(InputError, match=r"CLIPLoRAConfig\.towers is 'all': use both, text, image"):
        lora(encoder, towers="all")
    problem = make_problem(classes=3)
    other = CLIPLoRA(problem.text, TAU, {"towers": "image"}, class_names=NAMES, encoder=AttentionEncoder(problem.text))
    assert other.wants_pictures and not shows_images(other.encoder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(make_world(tmp_path_factory.mktemp("data") / "world"))


def test_the_protocol_tests_with_the_adapted_tower_and_caches_none_of_it(encoder, dataset, tmp_path):
    extraction = Extraction(cache=FeatureCache(tmp_path), progress=False)
    methods = ["zero-shot", QUICK, f"{QUICK}:towers=text"]
    results = run_protocol(encoder, dataset, methods, (2,), (0,), extraction=extraction)
    assert len(list(tmp_path.iterdir())) == 1  # one recipe, that of the encoder as it is
    cells = {cell.method: cell for cell in results.cells}
    assert cells[QUICK].trainable_parameters > cells[methods[2]].trainable_parameters
    assert cells[QUICK].val_accuracy is not None


@pytest.mark.parametrize("saved", [False, True])
def test_a_classifier_sees_pictures_with_the_adapted_tower(encoder, dataset, tmp_path, saved):
    extraction = Extraction(cache=FeatureCache(tmp_path / "cache"), progress=False)
    folder = tmp_path / "fit" if saved else None
    classifier = fit_classifier(encoder, dataset, None, parse_method(QUICK), 2, 0, folder, extraction)
    if folder is not None:
        classifier = Classifier.load(folder, encoder)
    adapter: Any = classifier.adapter
    assert adapter.adapts_images
    paths = [sample.path for sample in dataset.test]
    expected = adapter.predict_proba(paths).max(-1).values
    found = torch.tensor([each.classes[0][1] for each in classifier.predict(paths, extraction=extraction)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    tested = evaluate(classifier, dataset, cache=tmp_path / "cache")
    labels = torch.tensor([sample.label for sample in dataset.test])
    assert tested.accuracy == pytest.approx(float((adapter.predict(paths) == labels).double().mean()))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_features_of_the_tower_as_it_was_are_refused(encoder, fitted, pictures):
    features = encode_pictures("x", pictures, encoder)
    rows = [Row(Path(f"given.npz/{number}"), 0, features=features, index=number) for number in range(12)]
    with pytest.raises(InputError, match=r"has adapted the image tower, and features of .* as it was are given"):
        seen_by(fitted, encoder, rows, Extraction(progress=False))
