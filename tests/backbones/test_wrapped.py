"""``from_model``: live models of open_clip, transformers and timm, small and with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import vlmadapt
from tests.experiments.world import make_world
from vlmadapt.backbones import Encoder, load_encoder
from vlmadapt.errors import InputError, MissingDependency

SIZE = 32
TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": 16, "intermediate_size": 32}
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {"image_size": SIZE, "patch_size": 16, "hidden_size": 16, "intermediate_size": 32, **SMALL}


def pixels(picture: Image.Image) -> Tensor:
    from torchvision.transforms.functional import center_crop, resize, to_tensor

    return to_tensor(center_crop(resize(picture, SIZE), SIZE)) - 0.5


def of_open_clip() -> tuple[Any, Any, Any]:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 64, "patch_size": 16, "image_size": SIZE}
    text = {"layers": 1, "width": 32, "heads": 2}
    return open_clip.CLIP(16, vision, text), pixels, open_clip.get_tokenizer("ViT-B-32")


class Words:
    """A tokenizer called as those of transformers are."""

    def __call__(self, texts: list[str], padding: Any, truncation: bool, max_length: int, return_tensors: str) -> Any:
        words = [[1 + hash_of(word) for word in text.split()][: max_length - 1] for text in texts]
        rows = [[*numbers, TEXT["vocab_size"] - 1] for numbers in words]
        width = max_length if padding == "max_length" else max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def hash_of(word: str) -> int:
    return sum(ord(letter) * 31**i for i, letter in enumerate(word)) % 40000


def of_clip() -> tuple[Any, Any, Any]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = {**TEXT, **SMALL, "eos_token_id": TEXT["vocab_size"] - 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    return transformers.CLIPModel(config), processor(transformers), Words()


def of_siglip() -> tuple[Any, Any, Any]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config={**TEXT, **SMALL, "projection_size": 16}, vision_config=VISION)
    return transformers.SiglipModel(config), processor(transformers), Words()


def processor(transformers: Any) -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def of_timm() -> tuple[Any, Any, Any]:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=SIZE, depth=1, num_classes=7), None, None


KINDS = {"open_clip": of_open_clip, "clip": of_clip, "siglip": of_siglip, "timm": of_timm}


@pytest.fixture(scope="module", params=KINDS)
def made(request: Any) -> tuple[tuple[Any, Any, Any], Encoder]:
    given = KINDS[request.param]()
    return given, vlmadapt.from_model(*given)


def test_it_is_an_encoder(made: Any) -> None:
    (model, _, _), encoder = made
    picture = Image.effect_noise((50, 40), 60).convert("RGB")
    seen = encoder.transform(picture)
    assert seen.shape == (3, SIZE, SIZE) and seen.dtype == torch.float32
    features = encoder.encode_images(torch.stack([seen, seen]))
    assert features.shape == (2, encoder.width)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    twice = [encoder.augment(picture, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*twice) and twice[0].shape == seen.shape and not torch.equal(twice[0], seen)
    assert not model.training and not any(each.requires_grad for each in model.parameters())
    assert encoder.logit_scale > 0 and encoder.name.startswith("from_model:")


def test_texts_alone_and_together_have_the_same_features(made: Any) -> None:
    _, encoder = made
    texts = ["a cat", "a photo of two dogs", "sun"]
    if not encoder.has_text:
        with pytest.raises(InputError, match="has no text tower"):
            encoder.encode_texts(texts)
        return
    together = encoder.encode_texts(texts)
    assert together.shape == (3, encoder.width)
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(encoder.encode_texts([text])[0], row, rtol=1e-4, atol=1e-5)
    inputs = encoder.token_inputs(texts)
    torch.testing.assert_close(encoder.encode_tokens(inputs), together)


def test_the_fingerprint_is_of_weights_and_preprocess() -> None:
    model, preprocess, tokenizer = of_open_clip()
    first = vlmadapt.from_model(model, preprocess, tokenizer).fingerprint
    assert vlmadapt.from_model(*of_open_clip()).fingerprint == first
    assert vlmadapt.from_model(model, lambda picture: preprocess(picture) * 2, tokenizer).fingerprint != first
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert vlmadapt.from_model(model, preprocess, tokenizer).fingerprint != first


def test_a_classifier_is_fitted_saved_and_loaded_with_it(made: Any, tmp_path: Path) -> None:
    given, encoder = made
    world = make_world(tmp_path / "world")
    settings: Any = {"adapter": "ncm", "shots": 2, "no_cache": True}
    classifier = vlmadapt.fit(world, encoder=encoder, out=tmp_path / "run", **settings)
    picture = [world / "test" / "sun" / "0.png"]
    back = vlmadapt.Classifier.load(tmp_path / "run", vlmadapt.from_model(*given))
    assert back.predict(picture) == classifier.predict(picture)
    with pytest.raises(InputError, match=r"wrap it again with vlmadapt\.from_model"):
        vlmadapt.Classifier.load(tmp_path / "run")


def test_coop_learns_through_its_text_tower(made: Any, tmp_path: Path) -> None:
    _, encoder = made
    options: Any = {"adapter": "coop", "shots": 1, "no_cache": True, "settings": {"epochs": 1}, "protocol": "no-val"}
    if not encoder.has_text:
        with pytest.raises(InputError):
            vlmadapt.fit(make_world(tmp_path / "world"), encoder=encoder, **options)
        return
    assert vlmadapt.fit(make_world(tmp_path / "world"), encoder=encoder, **options).adapter.fitted_


class Odd(nn.Module):
    def __init__(self, pictures: int = 4, texts: int = 4, rows: int = 1) -> None:
        super().__init__()
        self.weight, self.sizes = nn.Parameter(torch.ones(1)), (pictures, texts, rows)

    def encode_image(self, x: Tensor) -> Tensor:
        return x.new_ones(len(x) * self.sizes[2], self.sizes[0])

    def encode_text(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), self.sizes[1])


def tokens(texts: list[str]) -> Tensor:
    return torch.zeros(len(texts), 5, dtype=torch.int64)


WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "a name": (("ViT-B-32", pixels, tokens), "model is a str: .* a name goes to load_encoder"),
    "another model": ((nn.Linear(2, 2), pixels, tokens), "model is a Linear, which has neither encode_image"),
    "no preprocess": ((Odd(), None, tokens), "preprocess is missing: give what makes of a PIL picture"),
    "no tokenizer": ((Odd(), pixels, None), "tokenizer is missing: give the model's"),
    "no pixels": ((Odd(), lambda picture: picture, tokens), "preprocess gives a Image for a picture"),
    "one channel": ((Odd(), lambda picture: pixels(picture)[:1], tokens), r"preprocess gives float32 \[1, 32, 32\]"),
    "a random one": (
        (Odd(), lambda picture: pixels(picture) + torch.rand(1), tokens),
        "other pixels of the same picture",
    ),
    "two spaces": ((Odd(4, 6), pixels, tokens), r"model gives float32 \[2, 6\] for 2 texts but 4 numbers"),
    "no pooling": ((Odd(rows=3), pixels, tokens), r"model gives float32 \[3, 4\] for one picture"),
    "lists of tokens": ((Odd(), pixels, lambda texts: [[1]] * len(texts)), "tokenizer gives a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case: str) -> None:
    given, sentence = WRONG[case]
    with pytest.raises(InputError, match=sentence) as caught:
        vlmadapt.from_model(*given)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_model_where_a_name_belongs_is_told_to_be_wrapped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name is a Odd: .* vlmadapt\.from_model"):
        load_encoder(Odd())  # type: ignore[arg-type]
    options: Any = {"encoder": Odd(), "shots": 1, "no_cache": True}
    for call in (vlmadapt.fit, vlmadapt.compare):
        with pytest.raises(InputError, match=r"encoder is a Odd: .* vlmadapt\.from_model"):
            call(make_world(tmp_path / "world"), **{**options, "shots": 1 if call is vlmadapt.fit else [1]})
    with pytest.raises(InputError, match=r"encoder is a Odd: .* vlmadapt\.from_model"):
        vlmadapt.Classifier.load(tmp_path, Odd())  # type: ignore[arg-type]


def test_a_repository_of_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("open_clip")
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("hf-hub:some/model", "open_clip:hf-hub:some/model"):
        with pytest.raises(MissingDependency, match=r"open_clip_config.json of .*:hf-hub:some/model .*--download"):
            load_encoder(name)
    with pytest.raises(InputError, match="write hf-hub:ORG/NAME"):
        load_encoder("hf-hub:model")
    model, _, _ = of_open_clip()
    folder = tmp_path / "models--some--model" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    folder.mkdir(parents=True)
    (folder.parent.parent / "refs").mkdir()
    (folder.parent.parent / "refs" / "main").write_text(folder.name)
    vision = {"layers": 1, "width": 64, "patch_size": 16, "image_size": SIZE}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"layers": 1, "width": 32, "heads": 2}}
    mean = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": mean}))
    with pytest.raises(MissingDependency, match=r"weights of open_clip:hf-hub:some/model are not .*--download"):
        load_encoder("hf-hub:some/model")
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    encoder = load_encoder("hf-hub:some/model")
    assert encoder.name == "open_clip:hf-hub:some/model" and encoder.width == 16
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    assert torch.equal(encoder.transform(picture), torch.ones(3, SIZE, SIZE))
    expected = model.eval().encode_image(torch.ones(1, 3, SIZE, SIZE))
    torch.testing.assert_close(encoder.encode_images(torch.ones(1, 3, SIZE, SIZE), normalize=False), expected.detach())
    assert load_encoder(encoder.name).fingerprint == encoder.fingerprint
