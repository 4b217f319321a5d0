"""The embedded encoder's heads: formulas, round trip and shipped size; no tower needed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlmadapt.backbones.heads import CONSE_CLASSES, HEADS_FILE, EmbeddedHeads, load_heads
from vlmadapt.errors import FileError
from vlmadapt.files import write_tensors


@pytest.fixture
def heads():
    torch.manual_seed(0)
    classes = F.normalize(torch.randn(20, 8), dim=-1)
    return EmbeddedHeads(classes, torch.randn(12), image_hidden=6, text_hidden=5)


def test_untrained_head_is_conse(heads):
    features, logits = torch.randn(3, 12), torch.randn(3, 20)
    expected = torch.zeros(3, 8)
    for row, probability in enumerate(logits.softmax(dim=-1)):
        best = sorted(range(20), key=lambda index: -float(probability[index]))[:CONSE_CLASSES]
        total = sum(float(probability[index]) for index in best)
        for index in best:
            expected[row] += float(probability[index]) / total * heads.classes[index]
    torch.testing.assert_close(heads.image_a(features, logits), F.normalize(expected, dim=-1))


def test_cosine_is_a_weighted_sum_of_both_spaces(heads):
    torch.nn.init.normal_(heads.image_linear.weight)
    features, logits, texts = torch.randn(3, 12), torch.randn(3, 20), torch.randn(4, 8)
    cosine = heads.images(features, logits) @ heads.texts(texts).T
    a = heads.image_a(features, logits) @ heads.text_a(texts).T
    b = heads.image_b(features) @ heads.text_b(texts).T
    torch.testing.assert_close(cosine, 0.64 * a + 0.36 * b)


def test_saved_heads_come_back(heads, tmp_path):
    path = tmp_path / "heads.safetensors"
    heads.save(path, {"seed": "0"})
    again = load_heads(path)
    for name, value in heads.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value.half().float())


def test_foreign_file_is_named(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"x": torch.zeros(1)})
    with pytest.raises(FileError, match=r"other\.safetensors"):
        load_heads(path)


def test_shipped_heads_are_small_finite_and_of_the_right_widths():
    heads = load_heads()
    assert HEADS_FILE.stat().st_size < 5_000_000
    assert heads.classes.shape == (1000, 384) and heads.mean.shape == (1280,)
    assert all(bool(torch.isfinite(value).all()) for value in heads.state_dict().values())
