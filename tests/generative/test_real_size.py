"""What ``make real-size`` measures, at a size that takes a moment."""

from __future__ import annotations

import pytest
import torch

from vlmadapt.errors import VlmadaptError
from vlmadapt.generative.methods.p_adapter import PAdapter
from vlmadapt.generative.real_size import Sizes, described, measure

SMALL = Sizes(width=32, heads=4, layers=1, image_size=32, patch=16, text_tokens=6, reduction=4)


def test_a_step_and_a_search_are_measured() -> None:
    pytest.importorskip("transformers")
    found = measure(SMALL, batch=2, new_tokens=3, beams=2)
    assert found["written"][0] == 2 and found["trainable_parameters"] > 0
    assert 0 < found["model_gb"] <= found["step_peak_gb"] <= found["peak_gb"]
    text = described(found, SMALL, new_tokens=3, beams=2)
    assert "5 image tokens, 6 text tokens, batch 2" in text and "beam search 2 x 3" in text


def test_a_loss_that_is_not_finite_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(PAdapter, "combine", lambda self, hidden, messages: hidden * torch.nan)
    with pytest.raises(VlmadaptError, match="loss is nan"):
        measure(SMALL, batch=1, new_tokens=2, beams=1)


def test_what_the_released_code_would_keep() -> None:
    """docs/p_adapter.md: two [B, H, n, n, d] tensors of float32 in 12 cross-attentions, n = 617: 28 GB."""
    sizes = Sizes()
    assert (sizes.image_tokens, sizes.nodes) == (577, 617)
    one = torch.empty(8, 12, 617, 617, 768 // 8 // 12, device="meta")
    assert sizes.released_gb(8) == pytest.approx(2 * 12 * one.numel() * one.element_size() / 1e9)
    assert round(sizes.released_gb(8)) == 28
