"""SigLIP and SigLIP 2 through open_clip, tried on tiny ones: random weights, and tokenizers made here.

The two differ from CLIP in their tokenizers: no start token, texts padded to 64 tokens of which all are attended to, by
the end token (SigLIP) or another (SigLIP 2); and in a bias, for the sigmoid they are trained with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vlmadapt.adapters import create_adapter
from vlmadapt.backbones import class_text_features, load_encoder
from vlmadapt.backbones.checkpoints import find_source
from vlmadapt.backbones.open_clip import OpenClipEncoder
from vlmadapt.errors import InputError

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install 'vlmadapt[open-clip]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[embedded]'")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["a", "cat", "dog", "photo", "of", "x", "red", "fish"]
LENGTH, WIDTH, BIAS = 12, 64, -10.0
KINDS = ["siglip", "siglip2"]


def make_tokenizer(folder: Path, kind: str) -> str:
    """Words with and without the blank before them, as sentencepiece has them.

    SigLIP's: a blank in front of the first word too, the end token for padding. SigLIP 2's: none in front, a padding of
    its own.
    """
    first = kind == "siglip"
    pieces = ["</s>" if first else "<pad>", "<eos>", "<unk>", *(f"▁{word}" for word in WORDS), *WORDS]
    if first:
        pieces[0], pieces[1] = "<pad>", "</s>"
    model = tokenizers.models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always" if first else "never")
    end = pieces[1]
    inner.post_processor = tokenizers.processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    padding = end if first else "<pad>"
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        eos_token=end,
        pad_token=padding,
        padding_side="right",
    )
    wrapped.save_pretrained(folder)
    return str(folder)


def config(tokenizer: str) -> dict[str, Any]:
    """As open_clip's ``ViT-B-16-SigLIP.json``, in small."""
    return {
        "embed_dim": WIDTH,
        "init_logit_bias": BIAS,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": 24,
            "hf_tokenizer_name": tokenizer,
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": WIDTH,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    }


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenClipEncoder:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    name = f"vlmadapt-tiny-{kind}"
    (folder / f"{name}.json").write_text(json.dumps(config(make_tokenizer(folder / "tokenizer", kind))))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(4)
    weights = open_clip.create_model(name).state_dict()
    assert float(weights["logit_bias"]) == BIAS
    weights |= {"logit_bias": torch.tensor(-12.5), "logit_scale": torch.tensor(100.0).log()}
    save_file(weights, folder / "w.safetensors")
    loaded = load_encoder(f"open_clip:{name}@{folder / 'w.safetensors'}")
    assert isinstance(loaded, OpenClipEncoder)
    return loaded


def kind_of(encoder: OpenClipEncoder) -> str:
    return encoder.name.partition("@")[0].rpartition("-")[2]


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((200, 150)).convert("RGB")


def test_texts_are_padded_to_the_full_length_and_end_where_they_end(encoder: OpenClipEncoder) -> None:
    inputs = encoder.token_inputs(["a photo of a cat", "dog", " ".join(["red"] * 30)])
    assert inputs.tokens.shape == (3, LENGTH)
    padding = 1 if kind_of(encoder) == "siglip" else 0
    assert bool((inputs.tokens[0, 6:] == padding).all()) and inputs.tokens[0, 5] == 1
    assert inputs.mask.sum(1).tolist() == [6, 2, LENGTH]  # words and the end token


def test_features_are_open_clip_s_of_texts_as_open_clip_reads_them(encoder: OpenClipEncoder) -> None:
    texts = ["a photo of a cat", "dog"]
    tokenizer = open_clip.get_tokenizer(encoder.name.removeprefix("open_clip:").partition("@")[0])
    with torch.no_grad():
        expected = encoder.model.encode_text(tokenizer(texts), normalize=True)
    torch.testing.assert_close(encoder.encode_texts(texts), expected)
    assert torch.equal(encoder.encode_texts(["A photo, of a CAT!"]), encoder.encode_texts(["a photo of a cat"]))
    # The pooled token is the last one, a padding, which sees all others: length matters, not a text's neighbours.
    torch.testing.assert_close(encoder.encode_texts(["dog"])[0], encoder.encode_texts(["a photo of a cat", "dog"])[1])


def test_learned_tokens_reproduce_texts_and_receive_gradients(encoder: OpenClipEncoder) -> None:
    inputs = encoder.token_inputs(["a cat", "a photo of a red dog"])
    torch.testing.assert_close(encoder.encode_tokens(inputs), encoder.encode_texts(["a cat", "a photo of a red dog"]))
    inputs.embeddings.requires_grad_()
    encoder.encode_tokens(inputs)[:, 0].sum().backward()
    gradient = inputs.embeddings.grad
    assert gradient is not None and bool(gradient.abs().sum() > 0)


def test_the_sigmoid_is_that_of_each_pair_and_the_softmax_sees_no_bias(encoder: OpenClipEncoder) -> None:
    images = encoder.encode_images(torch.stack([encoder.transform(picture())]))
    texts = class_text_features(encoder, ["cat", "dog", "fish"], ["a photo of a {}"])
    assert encoder.logit_bias == -12.5 and encoder.logit_scale == pytest.approx(100.0)
    with torch.no_grad():
        raw = encoder.model.logit_scale.exp() * images @ texts.T + encoder.model.logit_bias
    torch.testing.assert_close(encoder.match_probabilities(images, texts), raw.sigmoid())
    adapter = create_adapter("zero-shot", texts, encoder.logit_scale)
    torch.testing.assert_close(adapter.predict_proba(images), raw.softmax(-1))


def test_an_encoder_of_the_softmax_has_no_sigmoid(tmp_path: Path) -> None:
    from tests.backbones.test_open_clip import ARCH, TINY

    (tmp_path / f"{ARCH}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / f"{ARCH}.json")
    encoder = load_encoder(f"open_clip:{ARCH}@random")
    assert encoder.logit_bias is None
    with pytest.raises(InputError, match="was not trained on single pairs"):
        encoder.match_probabilities(torch.ones(1, 24), torch.ones(1, 24))


def test_coop_learns_a_context_before_the_class_name(encoder: OpenClipEncoder) -> None:
    """In front of it is no start token (SigLIP), or the first word as it is spelt without a blank (SigLIP 2)."""
    names = ["cat", "dog", "fish"]
    texts = class_text_features(encoder, names, ["a photo of a {}"])
    config = {"context_tokens": 3, "epochs": 2}
    adapter: Any = create_adapter("coop", texts, encoder.logit_scale, config, class_names=names, encoder=encoder)
    prompts = adapter._tokenized()
    before = adapter.__dict__["_before"]
    assert before == (0 if kind_of(encoder) == "siglip" else 1)
    table = encoder.tokenizer.tokenizer
    for row, name in zip(prompts.tokens.tolist(), names, strict=True):
        words = [word.replace("▁", "") for word in table.convert_ids_to_tokens(row)]
        assert words[: before + 4] == ["x"] * (before + 3) + [name]
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(texts[[0, 1, 2, 0, 1, 2]] + 0.1 * torch.randn(6, WIDTH), dim=-1)
    adapter.fit(features, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert bool(torch.isfinite(adapter.predict_proba(features)).all())
    assert float((adapter.context - adapter.context.mean()).abs().max().detach()) > 0
    with pytest.raises(InputError, match="context_tokens is 20, which the tokenizer of this encoder has no room for"):
        create_adapter("coop", texts, 10.0, {"context_tokens": 20}, class_names=names, encoder=encoder).fit(
            features, torch.tensor([0, 1, 2, 0, 1, 2])
        )


def test_a_local_checkpoint_is_seen_as_the_published_ones_are(tmp_path: Path) -> None:
    """open_clip's own default would be CLIP's mean, deviation and crop."""
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    for name in ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "ViT-SO400M-14-SigLIP2-378"):
        source = find_source(f"{name}@{path}", False)
        published = open_clip.get_pretrained_cfg(name, "webli")
        for key in ("mean", "std", "interpolation", "resize_mode"):
            assert source.preprocess[key] == published[key]
        assert source.preprocess["mean"] == (0.5, 0.5, 0.5) and source.preprocess["resize_mode"] == "squash"
    assert find_source(f"ViT-B-32@{path}", False).preprocess == {}
