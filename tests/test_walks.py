"""docs/architecture.md tells how many modules each walk enters, and names no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import walks
from tests.experiments.world import ColourEncoder

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")


def told(start: str) -> int:
    match = re.search(rf"^{start}[^:]*\b(\d+) modules", PAGE, re.MULTILINE)
    assert match is not None, start
    return int(match[1])


def test_a_picture_to_its_scores() -> None:
    """The encoder is the tests' own; the page adds the modules of the embedded one in words."""
    assert len(walks.picture(ColourEncoder())) == told("A picture")


def test_an_attention_matrix() -> None:
    pytest.importorskip("transformers")
    assert len(walks.attention()) == told("An attention matrix")
