"""Any open_clip model, tried on a tiny one with random weights."""

from __future__ import annotations

import json
import os
import pickle
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vlmadapt.backbones import class_text_features, load_encoder
from vlmadapt.backbones.open_clip import OpenClipEncoder
from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.pictures import read

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install 'vlmadapt[open-clip]'")

ARCH = "vlmadapt-tiny"
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_architecture(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / f"{ARCH}.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(3)
    return open_clip.create_model(ARCH).state_dict()


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(f"open_clip:{ARCH}@random")


def picture(width=40, height=30):
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def test_widths_scale_and_unit_norms(encoder):
    pixels = torch.stack([encoder.transform(picture()), encoder.transform(picture(20, 64))])
    assert pixels.shape == (2, 3, 32, 32)
    images, texts = encoder.encode_images(pixels), encoder.encode_texts(["a cat", "a dog", "a car"])
    assert images.shape == (2, encoder.width) and texts.shape == (3, 24)
    assert images.dtype == torch.float32 and encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(
        texts, torch.nn.functional.normalize(encoder.encode_texts(["a cat", "a dog", "a car"], normalize=False), dim=-1)
    )


def test_views_are_of_the_picture_as_it_is_read(encoder):
    covered = picture().convert("RGBA")
    covered.putalpha(60)
    seen = read(covered)
    assert not torch.equal(encoder.transform(covered), encoder.transform(covered.convert("RGB")))
    assert torch.equal(encoder.transform(covered), encoder.transform(seen))
    views = [encoder.augment(each, torch.Generator().manual_seed(1)) for each in (covered, seen)]
    assert torch.equal(*views)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin"])
def test_local_checkpoint_gives_the_saved_weights(tmp_path, weights, suffix):
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)
    encoder = load_encoder(f"open_clip:{ARCH}@{path}")
    assert isinstance(encoder, OpenClipEncoder)
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_fingerprint_follows_the_weights_not_the_path(tmp_path, weights, encoder):
    first, second, changed = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "changed"))
    save_file(weights, first)
    save_file(weights, second)
    save_file({**weights, "text_projection": weights["text_projection"] + 1e-3}, changed)
    prints = [load_encoder(f"open_clip:{ARCH}@{path}").fingerprint for path in (first, second, changed)]
    assert prints[0] == prints[1] and len({*prints, encoder.fingerprint}) == 3


def test_random_weights_are_seeded(encoder):
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = load_encoder(f"open_clip:{ARCH}@random")
    assert again.fingerprint == encoder.fingerprint
    assert torch.equal(torch.get_rng_state(), state)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(tmp_path, weights, writer):
    path, target = tmp_path / "evil.pt", tmp_path / "was-run"
    if writer == "torch":
        torch.save({**weights, "extra": Malicious(target)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(target), protocol=2))
    with pytest.raises(FileError, match=r"evil\.pt"):
        load_encoder(f"open_clip:{ARCH}@{path}")
    assert not target.exists()


def test_wrong_checkpoints_are_named(tmp_path, weights):
    garbage, other, missing = (tmp_path / f"{name}.safetensors" for name in ("garbage", "other", "missing"))
    garbage.write_bytes(b"not a tensor file")
    save_file({"something": torch.zeros(2)}, other)
    for path in (garbage, other, missing, tmp_path / "weights.npz"):
        with pytest.raises(FileError, match=path.name):
            load_encoder(f"open_clip:{ARCH}@{path}")


def test_tag_without_local_weights_says_what_to_run(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingDependency, match=r"pass --download once.*allow_download=True.*download=True"):
        load_encoder("open_clip:ViT-B-32/laion2b_s34b_b79k")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingDependency, match="unset HF_HUB_OFFLINE"):
        load_encoder("open_clip:ViT-B-32/laion2b_s34b_b79k", allow_download=True)
    assert constants.HF_HUB_OFFLINE is True


def test_unknown_names():
    for name in ("open_clip:ViT-B-32/nonsense", "open_clip:ViT-B-32", "open_clip:NoSuch@random", "clip", "open_clip:"):
        with pytest.raises(InputError, match=r"choose one of|use 'embedded'"):
            load_encoder(name)


def test_learned_tokens_reproduce_texts_and_receive_gradients(encoder):
    texts = ["a cat", "a very long sentence about a dog!"]
    inputs = encoder.token_inputs(texts)
    assert inputs.mask.sum(dim=1).tolist() == [4, 10]
    torch.testing.assert_close(encoder.encode_tokens(inputs), encoder.encode_texts(texts))
    inputs.embeddings.requires_grad_()
    encoder.encode_tokens(inputs)[:, 0].sum().backward()
    assert bool(inputs.embeddings.grad.abs().sum() > 0)
    assert not encoder.encode_texts(texts).requires_grad


def test_augment_is_seeded_and_differs(encoder):
    views = [encoder.augment(picture(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert views[0].shape == (3, 32, 32) and torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_class_text_features_is_the_mean_of_normalised_texts(encoder):
    features = class_text_features(encoder, ["cat", "dog"], ["a {}", "a photo of a {}."])
    dogs = encoder.encode_texts(["a dog", "a photo of a dog."]).mean(dim=0)
    torch.testing.assert_close(features[1], dogs / dogs.norm())


def test_bad_inputs_are_named(encoder):
    with pytest.raises(InputError, match="pixels must be"):
        encoder.encode_images(torch.zeros(3, 32, 32))
    with pytest.raises(InputError, match="pixels holds NaN"):
        encoder.encode_images(torch.full((1, 3, 32, 32), float("nan")))
    with pytest.raises(InputError, match="texts must be a sequence"):
        encoder.encode_texts("a cat")
    with pytest.raises(InputError, match=r"texts\[1\]"):
        encoder.encode_texts(["a cat", " "])
    with pytest.raises(InputError, match=re.escape("without {}")):
        class_text_features(encoder, ["cat"], ["a photo"])
    with pytest.raises(InputError, match="device is"):
        load_encoder(f"open_clip:{ARCH}@random", device="nonsense")
    assert encoder.encode_texts([]).shape == (0, 24)
    assert encoder.encode_images(torch.zeros(0, 3, 32, 32)).shape == (0, 24)
