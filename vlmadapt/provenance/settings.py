"""A method of a comparison: an adapter and the settings that differ from its defaults."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmadapt.errors import InputError


@dataclass(frozen=True)
class Method:
    """``label`` names the line in tables and curves; ``settings`` go to the adapter's config."""

    label: str
    adapter: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def parse_method(text: str) -> Method:
    """``"xmadapter"`` or ``"xmadapter:fusion=fixed:epochs=20"``: an adapter and settings joined by colons."""
    adapter, *pairs = text.split(":")
    return Method(text, adapter, parse_settings(pairs))


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """``["lr=1e-3", "fusion=fixed"]`` to a dict; values are read as JSON and stay text where they are not.

    Raises :class:`InputError` naming a pair without ``=`` or a key given twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"The setting {pair!r} is not of the form key=value, for example lr=0.001.")
        if key in settings:
            raise InputError(f"The setting {key!r} is given twice: keep one.")
        settings[key] = _literal(value.strip())
    return settings


def _literal(text: str) -> Any:
    lowered = text.lower()
    if lowered in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(lowered)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of too many digits, too many brackets
        return text


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` as JSON would give it back, so that it compares equal to what a file holds (tuples become lists)."""
    return json.loads(json.dumps(value))
