"""docs/adapters.md speaks of every method and every field of its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmadapt.adapters import ADAPTERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_method_and_fields_are_documented(name):
    text = PAGE.read_text(encoding="utf-8")
    assert f"`{name}`" in text
    for field, _, _ in ADAPTERS[name].config_class.describe():
        assert f"`{field}`" in text, field
