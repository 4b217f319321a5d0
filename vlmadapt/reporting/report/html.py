"""Text, tables and data as HTML: nothing that a class or a file is called can become markup or a script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vlmadapt.errors import shown
from vlmadapt.reporting.table import Table


def text(value: object) -> str:
    """``value`` as it stands in HTML, in attributes too; control characters and turns of direction are spelt out."""
    return escape(shown(str(value)), quote=True)


def cut(value: str, width: int) -> str:
    """The first ``width`` characters, as plain text."""
    return value if len(value) <= width else value[: width - 1].rstrip() + "…"


def drawn(value: object, width: int | None = None) -> str:
    """Text of a chart: Plotly takes tags and entities in it for markup, so that those of a name are escaped."""
    plain = shown(str(value))
    return escape(plain if width is None else cut(plain, width), quote=False)


def data_block(name: str, value: object) -> str:
    """``value`` as JSON in the page, which no content can end early."""
    body = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        body = body.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{text(name)}">{body}</script>'


def paragraphs(lines: Sequence[str], kind: str = "notes") -> str:
    return "".join(f'<p class="{kind}">{text(line)}</p>' for line in lines)


def listed(values: Mapping[str, Any]) -> str:
    """Names and values, one below the other."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in values.items()) + "</dl>"


def table_html(table: Table) -> str:
    """``table`` without its title; its notes below."""

    def cells(row: Sequence[str], number: int | None) -> str:
        parts = []
        for place, cell in enumerate(row):
            kinds = ["left"] * (place in table.left) + ["best"] * ((number, place) in table.bold)
            mark = f' class="{" ".join(kinds)}"' if kinds else ""
            tag, scope = ("td", "") if number is not None and place else ("th", ' scope="row"')
            scope = ' scope="col"' if number is None else scope
            parts.append(f"<{tag}{scope}{mark}>{text(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(cells(row, number) for number, row in enumerate(table.rows))
    name = text(table.title or table.header[0])
    return (
        f'<div class="across" tabindex="0" role="region" aria-label="{name}, table"><table>'
        f"<thead>{cells(table.header, None)}</thead><tbody>{body}</tbody></table></div>{paragraphs(table.notes)}"
    )


def folded(title: str, body: str) -> str:
    """``body`` behind ``title``: folded by the page's script, open without it and in print."""
    return f'<details class="data" open><summary>{text(title)}</summary>{body}</details>'
