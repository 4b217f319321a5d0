"""How a result came about: data, encoder, protocol, the settings of each method and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmadapt.reporting.report.html import folded, listed, paragraphs, table_html
from vlmadapt.reporting.report.page import Section
from vlmadapt.reporting.table import Table


def settings_section(
    about: Mapping[str, Any], words: Sequence[str], chosen: Table | None, methods: Mapping[str, Mapping[str, Any]]
) -> Section:
    """``about`` in a list, ``words`` of the protocol below, ``chosen`` values, every method's settings."""
    parts = [listed(about), paragraphs(words)]
    if chosen is not None and chosen.rows:
        parts.append(f"<h3>What was chosen</h3>{table_html(chosen)}")
    for name, config in methods.items():
        rows = [[key, plain(value)] for key, value in config.items()]
        if rows:
            table = Table(f"settings of {name}", ["setting", "value"], rows, left=frozenset({0, 1}))
            parts.append(folded(f"Settings of {name}", table_html(table)))
    return Section("Settings", "Protocol and settings", "".join(parts))


def plain(value: Any) -> str:
    """A setting as it is read: 0.5, none, 1 to 8 in 4 steps as [1, 8, 4]."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(each)}" for key, each in value.items())
    return str(value) or "empty"
