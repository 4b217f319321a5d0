"""Vision-only towers of timm, tried on tiny ones with random weights."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import vlmadapt
from tests.experiments.world import make_world
from vlmadapt.adapters import adapters_without_text
from vlmadapt.backbones import class_text_features, load_encoder, reads_text
from vlmadapt.backbones.timm import TimmEncoder
from vlmadapt.classifier import Classifier
from vlmadapt.cli import app
from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.pictures import read

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'vlmadapt[timm]'")

VIT = "test_vit"
PRETRAINED = timm.list_models("vit_*", pretrained=True)
NAMES = [VIT, "test_efficientnet", "test_convnext", "test_resnet"]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Of the whole model, with the classifier that is not used."""
    torch.manual_seed(3)
    state: dict[str, torch.Tensor] = timm.create_model(VIT).state_dict()
    return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> TimmEncoder:
    loaded = load_encoder(f"timm:{VIT}@{checkpoint}")
    assert isinstance(loaded, TimmEncoder)
    return loaded


def picture(width: int = 200, height: int = 170) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


@pytest.mark.parametrize("name", NAMES)
def test_features_are_timm_s_pooled_ones_of_timm_s_own_view(tmp_path: Path, name: str) -> None:
    torch.manual_seed(5)
    whole = timm.create_model(name).eval()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder(f"timm:{name}@{tmp_path / 'w.safetensors'}")
    view = timm.data.create_transform(**timm.data.resolve_model_data_config(whole), is_training=False)
    pixels = torch.stack([encoder.transform(each) for each in (picture(), picture(90, 300))])
    assert torch.equal(pixels[1], view(picture(90, 300))) and pixels.dtype == torch.float32
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
    found = encoder.encode_images(pixels, normalize=False)
    assert found.shape == (2, encoder.width) and not found.requires_grad
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(encoder.encode_images(pixels).norm(dim=-1), torch.ones(2))
    assert encoder.encode_images(pixels[:0]).shape == (0, encoder.width)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_local_checkpoint_gives_the_saved_weights(
    tmp_path: Path, weights: dict[str, torch.Tensor], suffix: str, wrapped: bool
) -> None:
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights} if wrapped else weights, path)
    encoder = load_encoder(f"timm:{VIT}@{path}")
    assert isinstance(encoder, TimmEncoder)
    state = encoder.model.state_dict()
    assert weights.keys() - state.keys() == {"head.weight", "head.bias"}
    for name, value in state.items():
        assert torch.equal(value, weights[name]), name


def test_fingerprint_follows_weights_and_view_not_the_path(
    tmp_path: Path, weights: dict[str, torch.Tensor], encoder: TimmEncoder
) -> None:
    other = tmp_path / "other.safetensors"
    save_file(weights, other)
    assert load_encoder(f"timm:{VIT}@{other}").fingerprint == encoder.fingerprint
    save_file({**weights, "head.bias": weights["head.bias"] + 1}, other)
    assert load_encoder(f"timm:{VIT}@{other}").fingerprint == encoder.fingerprint  # of what is not used
    save_file({**weights, "norm.bias": weights["norm.bias"] + 1e-3}, other)
    changed = load_encoder(f"timm:{VIT}@{other}").fingerprint
    random = load_encoder(f"timm:{VIT}@random")
    assert len({changed, encoder.fingerprint, random.fingerprint}) == 3
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert load_encoder(f"timm:{VIT}@random").fingerprint == random.fingerprint
    assert torch.equal(torch.get_rng_state(), state)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, weights: dict[str, torch.Tensor], writer: str) -> None:
    path, target = tmp_path / "evil.pt", tmp_path / "was-run"
    if writer == "torch":
        torch.save({**weights, "extra": Malicious(target)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(target), protocol=2))
    with pytest.raises(FileError, match=r"evil\.pt could not be read as plain tensors"):
        load_encoder(f"timm:{VIT}@{path}")
    assert not target.exists()


def test_wrong_checkpoints_are_named(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    garbage, other, missing, part = (tmp_path / f"{name}.safetensors" for name in ("garbage", "other", "none", "part"))
    garbage.write_bytes(b"not a tensor file")
    save_file({"something": torch.zeros(2)}, other)
    save_file({name: value for name, value in weights.items() if name != "norm.bias"}, part)
    for path in (garbage, other, missing, part, tmp_path / "weights.npz"):
        with pytest.raises(FileError, match=re.escape(path.name)) as caught:
            load_encoder(f"timm:{VIT}@{path}")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileError, match=r"part\.safetensors does not fit test_vit: .*norm\.bias"):
        load_encoder(f"timm:{VIT}@{part}")


def test_weights_that_are_not_at_hand_are_neither_random_nor_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download was tried"))
    for name in (VIT, "resnet18.a1_in1k", "vit_small_patch14_dinov2"):
        with pytest.raises(MissingDependency, match=rf"timm:{name} are not in the local cache: .*allow_download=True"):
            load_encoder(f"timm:{name}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingDependency, match="unset HF_HUB_OFFLINE, or pass a local file as timm:MODEL@FILE"):
        load_encoder(f"timm:{VIT}", allow_download=True)
    assert constants.HF_HUB_OFFLINE is True


def test_weights_in_the_local_cache_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, encoder: TimmEncoder
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(checkpoint.read_bytes())
    for name in (VIT, f"{VIT}.r160_in1k"):
        assert load_encoder(f"timm:{name}").fingerprint == encoder.fingerprint


def test_weights_of_an_address_are_fetched_once_where_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: dict[str, torch.Tensor], encoder: TimmEncoder
) -> None:
    fetched: list[str] = []

    def fetch(url: str, place: str, progress: bool = True) -> None:
        fetched.append(url)
        torch.save(weights, place)

    known = timm.models.get_pretrained_cfg(VIT)
    only_url = dataclasses.replace(known, hf_hub_id=None, url="https://example.org/tiny.pth")
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: only_url)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(MissingDependency, match="are not in the local cache"):
        load_encoder(f"timm:{VIT}")
    for _ in range(2):
        assert load_encoder(f"timm:{VIT}", allow_download=True).fingerprint == encoder.fingerprint
    assert load_encoder(f"timm:{VIT}").fingerprint == encoder.fingerprint
    assert fetched == ["https://example.org/tiny.pth"]


def test_a_checkpoint_in_the_layout_of_dinov2_s_authors_is_read(
    tmp_path: Path, weights: dict[str, torch.Tensor], encoder: TimmEncoder
) -> None:
    """Theirs has a mask token, by which timm knows it, and no classifier."""
    own = {name: value for name, value in weights.items() if not name.startswith("head.")}
    torch.save({**own, "mask_token": torch.zeros(1, encoder.width)}, tmp_path / "theirs.pth")
    assert load_encoder(f"timm:{VIT}@{tmp_path / 'theirs.pth'}").fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:no_such_model", "timm does not know: choose one of timm.list_models()"),
        ("timm:test_vit.nonsense", r"unknown for test_vit: choose one of test_vit.r160_in1k"),
        ("timm:vit_tiny_patch16_gap_reg", "which timm does not know"),
        ("timm:", "use 'embedded'.* or 'timm:MODEL"),
    ],
)
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")):
        load_encoder(name)


def test_a_model_that_nobody_trained_needs_a_checkpoint() -> None:
    untrained = sorted(set(timm.list_models("vit_*")) - {name.partition(".")[0] for name in PRETRAINED})[0]
    with pytest.raises(InputError, match=f"timm offers no weights for '{untrained}': give a checkpoint, as in timm:"):
        load_encoder(f"timm:{untrained}")


def test_views_are_of_the_picture_as_it_is_read(encoder: TimmEncoder) -> None:
    covered = picture().convert("RGBA")
    covered.putalpha(60)
    assert torch.equal(encoder.transform(covered), encoder.transform(read(covered)))
    views = [encoder.augment(picture(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert views[0].shape == (3, 160, 160) and torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    assert encoder.transform(picture(40_000, 2)).shape == (3, 160, 160)  # whose middle is seen


def test_text_is_refused_in_a_sentence(encoder: TimmEncoder) -> None:
    assert not encoder.has_text and not reads_text(encoder.name) and reads_text("embedded")
    words = f"texts cannot be encoded, for timm:{VIT}@.* has no text tower: use a method that can do without class text"
    for call in (
        lambda: encoder.encode_texts(["a cat"]),
        lambda: encoder.token_inputs(["a cat"]),
        lambda: class_text_features(encoder, ["cat"], ["a {}."]),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_from_pictures_to_a_classifier(
    checkpoint: Path, encoder: TimmEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fit, predict, eval, compare, features: all the way without a text."""
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    world, name = make_world(tmp_path / "world"), f"timm:{VIT}@{checkpoint.name}"
    Path(checkpoint.name).write_bytes(checkpoint.read_bytes())  # files of features name no folder

    def run(*words: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result.output

    run("fit", world, "--backbone", name, "--adapter", "ncm", "--shots", 2, "--out", "run")
    accuracy = vlmadapt.evaluate("run").accuracy
    picture = next((world / "test" / "fish").iterdir())
    assert Classifier.load("run").predict([picture])[0].classes and "fish" in run("predict", "run", picture)
    results = vlmadapt.compare(world, encoder=name, shots=[2], seeds=1, out=tmp_path / "compared")
    assert [cell.method for cell in results.cells] == adapters_without_text()
    assert results.encoder["name"] == f"timm:{VIT}@{checkpoint.name}"
    run("features", world, "--backbone", name, "--out", "f.safetensors")
    assert "no class text" in run("data", "check", "f.safetensors")
    of_file = vlmadapt.fit("f.safetensors", adapter="ncm", shots=2, out=tmp_path / "of_file")
    assert of_file.run.encoder.fingerprint == encoder.fingerprint
    assert vlmadapt.evaluate("of_file").accuracy == vlmadapt.evaluate("of_file", world).accuracy == accuracy
    for method in ("zero-shot", "coop"):
        said = run("fit", world, "--backbone", name, "--adapter", method, "--shots", 2, code=2)
        assert f"{method} needs class text" in said
    with pytest.raises(InputError, match="templates is given, but the backbone has no text tower"):
        vlmadapt.fit(world, encoder=name, adapter="ncm", shots=2, templates=["a {}."])
