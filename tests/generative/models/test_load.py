"""Generative models by name, from local files only."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")
pytest.importorskip("open_clip")

import open_clip

from tests.generative.tiny import END, START, WORDS, in_training, pictures, texts, tiny_blip
from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.generative.methods.p_adapter import attach_p_adapter
from vlmadapt.generative.models import load_generative
from vlmadapt.generative.models.blip_attention import mask_cross_attention
from vlmadapt.generative.models.small import WordTokenizer
from vlmadapt.pictures import read


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As save_pretrained writes it, with a vocabulary of whole words."""
    folder = tmp_path_factory.mktemp("blip")
    tiny_blip("BlipForConditionalGeneration").save_pretrained(folder)
    WordTokenizer(["a", "red", "circle"]).save(folder)
    return folder


@pytest.fixture(scope="module")
def bert_folder(blip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With BERT's tokenizer, as published BLIP models have."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    for path in blip_folder.iterdir():
        if path.suffix in (".safetensors", ".json") and path.name != "vocabulary.json":
            (folder / path.name).write_bytes(path.read_bytes())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words + [f"[unused{i}]" for i in range(WORDS - len(words))]))
    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    return folder


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def test_blip(blip_folder: Path) -> None:
    loaded = load_generative(f"blip:{blip_folder}")
    assert loaded.name == f"blip:{blip_folder}" and not loaded.model.training
    original = tiny_blip("BlipForConditionalGeneration")
    tokens, mask = texts()
    expected = original(pictures(), tokens, mask).logits
    torch.testing.assert_close(loaded.model(pictures(), tokens, mask).logits, expected)
    assert loaded.image_size == (32, 32) and loaded.transform(picture()).shape == (3, 32, 32)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("a red circle")) == "a red circle"


def test_berts_tokenizer(bert_folder: Path) -> None:
    tokenizer = load_generative(f"blip:{bert_folder}").tokenizer
    assert (tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.bos) == (0, 2, 3, START)
    assert tokenizer.encode("A red circles") == [5, 6, 7, 8] and len(tokenizer) == WORDS
    assert tokenizer.decode([START, 5, 6, 7, 8, 3, 5, 0]) == "a red circles"


def test_blips_own_preprocessing(blip_folder: Path) -> None:
    try:
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    except ImportError:  # Until transformers 5.3.
        from transformers import BlipImageProcessor as BlipImageProcessorPil  # type: ignore[assignment]

    view = load_generative(f"blip:{blip_folder}").transform
    theirs = BlipImageProcessorPil(size={"height": 32, "width": 32})(picture(), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(view(picture()), theirs, rtol=0, atol=1e-5)
    settings = {"size": {"height": 20, "width": 30}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (blip_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    loaded = load_generative(f"blip:{blip_folder}")
    assert loaded.image_size == (20, 30) and loaded.transform(picture()).shape == (3, 20, 30)
    (blip_folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 3}}))
    with pytest.raises(FileError, match=r"preprocessor_config\.json holds"):
        load_generative(f"blip:{blip_folder}")
    (blip_folder / "preprocessor_config.json").unlink()


def test_weights_that_run_code_are_refused(blip_folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    for name in ("config.json", "vocabulary.json"):
        (tmp_path / name).write_bytes((blip_folder / name).read_bytes())
    torch.save({"logit_scale": Bomb()}, tmp_path / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(FileError, match="pickle of more than tensors"):
        load_generative(f"blip:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_blip_folders_that_cannot_be_read(blip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is no folder"):
        load_generative("blip:Salesforce/blip-vqa-base")
    with pytest.raises(FileError, match=r"could not be loaded: it has no config\.json"):
        load_generative(f"blip:{tmp_path}")
    config = json.loads((blip_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileError, match="could not be loaded"):
        load_generative(f"blip:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes((blip_folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(FileError, match="could not be read"):
        load_generative(f"blip:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BlipModel"]}))
    with pytest.raises(InputError, match="holds the architecture BlipModel"):
        load_generative(f"blip:{tmp_path}")


def test_weights_of_a_blip_are_neither_left_over_nor_missing(blip_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in blip_folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(blip_folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    saved_once = {"text_decoder.bert.embeddings.position_ids": torch.arange(24)[None]}
    save_file({**weights, **saved_once}, tmp_path / "model.safetensors", {"format": "pt"})
    load_generative(f"blip:{tmp_path}")
    for changed, said in (
        ({key: value for key, value in weights.items() if key != name}, f"lack {name}: give a folder"),
        ({**weights, "more": torch.zeros(2), "most": torch.zeros(2)}, "hold an unknown more and 1 more: give a folder"),
    ):
        save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(FileError, match=said):
            load_generative(f"blip:{tmp_path}")


@pytest.mark.parametrize("adapted", [False, True])
def test_an_answer_does_not_depend_on_the_padding_of_its_question(adapted: bool) -> None:
    model: Any = mask_cross_attention(tiny_blip("BlipForQuestionAnswering").double())
    if adapted:
        in_training(attach_p_adapter(model, {"reduction": 4}))
    decoder = model.text_decoder
    question, mask = texts()
    states = model.text_encoder(question, mask, encoder_hidden_states=model.vision_model(pictures().double())[0])[0]
    answer = question[:, :3]
    found = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    padded = decoder(answer, **found).logits[1]
    alone = decoder(answer[1:], encoder_hidden_states=states[1:, :5]).logits[0]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-9)
    asked = {"max_new_tokens": 5, "output_logits": True, "return_dict_in_generate": True, "eos_token_id": END}
    for beams in (1, 2):
        with_cache, without = (
            decoder.generate(answer[:, :1], use_cache=use_cache, num_beams=beams, **found, **asked)
            for use_cache in (True, False)
        )
        assert torch.equal(with_cache.sequences, without.sequences)
        torch.testing.assert_close(torch.stack(with_cache.logits), torch.stack(without.logits), rtol=1e-6, atol=1e-6)


@pytest.fixture
def tiny_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny CoCa as an architecture open_clip knows."""
    sizes = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 24, "head_width": 12, "patch_size": 8, "output_tokens": True}
    pooler = {"attentional_pool": True, "attn_pooler_queries": 8, "attn_pooler_heads": 2}
    config = {
        "embed_dim": 24,
        "multimodal_cfg": sizes,
        "text_cfg": {**sizes, "embed_cls": True, "output_tokens": True},
        "vision_cfg": {**vision, **pooler},
        "custom_text": True,
    }
    path = tmp_path / "tiny_coca.json"
    path.write_text(json.dumps(config))
    registry = open_clip.factory
    monkeypatch.setattr(registry, "_MODEL_CONFIGS", dict(registry._MODEL_CONFIGS))
    monkeypatch.setattr(registry, "_MODEL_CONFIG_PATHS", list(registry._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(path)
    return "tiny_coca"


def test_coca(tiny_architecture: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    random = load_generative(f"coca:{tiny_architecture}@random")
    assert random.image_size == (32, 32)
    again = load_generative(f"coca:{tiny_architecture}@random").model.state_dict()
    for name, tensor in random.model.state_dict().items():
        assert torch.equal(tensor, again[name]) and tensor.isfinite().all(), name
    view = random.transform(picture())
    assert view.shape == (3, 32, 32)
    covered = picture().convert("RGBA")
    covered.putalpha(60)
    assert torch.equal(random.transform(covered), random.transform(read(covered)))
    changed = {name: tensor + 0.1 for name, tensor in random.model.state_dict().items()}
    save_file(changed, tmp_path / "weights.safetensors")
    torch.save(changed, tmp_path / "weights.pt")
    for name in ("weights.safetensors", "weights.pt"):
        loaded = load_generative(f"coca:{tiny_architecture}@{tmp_path / name}")
        state = loaded.model.state_dict()
        assert all(torch.equal(state[key], changed[key]) for key in changed)
    tokenizer = random.tokenizer
    numbers = tokenizer.encode("A red circle!")
    assert tokenizer.decode([tokenizer.bos, *numbers, tokenizer.sep, 5, 6]) == "a red circle !"
    assert (tokenizer.pad, len(tokenizer)) == (0, 49408)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is no generative model"):
        load_generative("flamingo")
    with pytest.raises(InputError, match="'ViT-B-32', which is no CoCa"):
        load_generative("coca:ViT-B-32@random")
    with pytest.raises(InputError, match="which open_clip does not know"):
        load_generative("coca:coca@random")
    with pytest.raises(FileError, match="does not exist"):
        load_generative(f"coca:coca_ViT-B-32@{tmp_path / 'no.safetensors'}")
    with pytest.raises(MissingDependency, match="not in the local cache"):
        load_generative("coca:coca_ViT-B-32/laion2b_s13b_b90k")
