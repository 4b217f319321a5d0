"""The small BLIP: its vocabulary, its sizes, its folder."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace

import pytest
import safetensors
import torch

from vlmadapt.errors import FileError, InputError
from vlmadapt.generative.models.small import (
    VOCABULARY,
    SmallBlipConfig,
    WordTokenizer,
    build_small,
    save_small,
)

WORDS = ["what", "is", "blue", "?", "circle", "don", "t", "'"]


def test_tokenizer_round_trip_and_unknown_words():
    tokenizer = WordTokenizer(WORDS)
    assert tokenizer.decode(tokenizer.encode("What is  blue?")) == "what is blue?"
    assert tokenizer.encode("zebra") == [tokenizer.unknown]
    row = [tokenizer.bos, *tokenizer.encode("blue circle"), tokenizer.sep, *tokenizer.encode("is"), tokenizer.pad]
    assert tokenizer.decode(row) == "blue circle"
    assert len({tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.bos, tokenizer.unknown}) == 5
    assert len(tokenizer) == len(WORDS) + 5


def test_the_vocabulary_is_json_and_survives(tmp_path):
    tokenizer = WordTokenizer(WORDS)
    tokenizer.save(tmp_path)
    assert WordTokenizer.load(tmp_path).tokens == tokenizer.tokens
    (tmp_path / VOCABULARY).write_text(json.dumps({"tokens": ["a", "b"]}))
    with pytest.raises(FileError, match=r"vocabulary\.json is not a vocabulary"):
        WordTokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", ["vqa", "caption"])
def test_a_saved_model_is_loaded_as_it_was(kind, tmp_path):
    pytest.importorskip("transformers")
    from vlmadapt.generative.models import load_generative

    tokenizer = WordTokenizer(WORDS)
    config = SmallBlipConfig(width=32, heads=2, vision_layers=1, text_layers=1, image_size=16)
    model = build_small(kind, len(tokenizer), config)
    save_small(model, tokenizer, tmp_path)
    loaded = load_generative(f"blip:{tmp_path}")
    assert type(loaded.model) is type(model) and loaded.image_size == (16, 16)
    assert isinstance(loaded.tokenizer, WordTokenizer)
    assert loaded.tokenizer.tokens == tokenizer.tokens
    theirs = loaded.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}


def test_default_sizes():
    pytest.importorskip("transformers")
    count = {kind: sum(p.numel() for p in build_small(kind, 46).parameters()) for kind in ("vqa", "caption")}
    assert count["vqa"] == pytest.approx(1.9e6, rel=0.05) and count["caption"] == pytest.approx(1.4e6, rel=0.05)
    with pytest.raises(InputError, match="kind is 'retrieval'"):
        build_small("retrieval", 46)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [safetensors.SafetensorError("No space left"), OSError(errno.ENOSPC, "No space left")]
)
def test_weights_that_cannot_be_written_are_one_sentence(error, tmp_path):
    def full(folder):
        raise error

    model = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=16)), save_pretrained=full)
    with pytest.raises(FileError, match=r"could not write .*model: No space left"):
        save_small(model, WordTokenizer(WORDS), tmp_path / "model")
