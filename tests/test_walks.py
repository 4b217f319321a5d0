"""docs/architecture.md tells how many modules of the package each walk enters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import walks

from tests.experiments.world import ColourEncoder

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
# What the page counts beyond a walk with the tests' encoder: the embedded one, and the pictures it reads.
ENCODER = 6


def told(of: str) -> int:
    match = re.search(rf"{of}[^.]*? (\d+) (?:modules )?\(", PAGE)
    assert match is not None, of
    return int(match[1])


def test_a_picture_to_its_scores() -> None:
    assert len(walks.picture(ColourEncoder())) + ENCODER == told("a picture enters")


def test_an_attention_matrix() -> None:
    pytest.importorskip("transformers")
    assert len(walks.attention()) == told("an attention matrix, forward and backward,")
