"""The page: head, navigation, sections, and the scripts whose hashes are all that its policy lets run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vlmadapt.files import read_text, write_text
from vlmadapt.provenance.drawn import MARK
from vlmadapt.reporting.report.charts import Chart
from vlmadapt.reporting.report.gallery import Album
from vlmadapt.reporting.report.html import data_block, text
from vlmadapt.version import __version__

LIBRARY = "plotly-cartesian.min.js"  # assets/NOTICE.md says where it comes from


@dataclass(frozen=True)
class Section:
    """A part of the page that the navigation leads to: its name there, its title, its HTML and the charts within."""

    name: str
    title: str
    body: str
    charts: Sequence[Chart] = ()

    @property
    def anchor(self) -> str:
        return self.name.lower().replace(" ", "-")

    def html(self) -> str:
        """The section; charts are drawn after the text."""
        inner = self.body + "".join(chart.html() for chart in self.charts)
        name = text(self.anchor)
        return f'<section aria-labelledby="{name}"><h2 id="{name}">{text(self.title)}</h2>{inner}</section>'


@dataclass(frozen=True)
class Report:
    """A page of ``sections``; ``lead`` is a sentence below the title, ``figures`` the few numbers that matter most,
    each a name, a value and what it is of. ``album`` holds the pictures that sections show."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    album: Album = field(default_factory=lambda: Album(pictures=False))

    def html(self) -> str:
        """The whole page."""
        charts = [chart for section in self.sections for chart in section.charts]
        figures: Mapping[str, Any] = {chart.name: list(chart.figures.values()) for chart in charts}
        library, script = asset(LIBRARY), asset("report.js")
        policy = (
            f"default-src 'none'; script-src {_hash(library)} {_hash(script)}; style-src 'unsafe-inline'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        )
        links = "".join(f'<li><a href="#{text(each.anchor)}">{text(each.name)}</a></li>' for each in self.sections)
        numbers = "".join(
            f"<li>{text(name)}<strong>{text(value)}</strong><small>{text(more)}</small></li>"
            for name, value, more in self.figures
        )
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en">',
                "<head>",
                '<meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">',
                '<meta name="referrer" content="no-referrer">',
                f'<meta name="generator" content="{MARK}">',
                f"<title>{text(self.title)}</title>",
                '<link rel="icon" href="data:,">',
                f"<style>{asset('report.css')}</style>",
                "</head>",
                "<body>",
                '<a class="skip" href="#main">Skip to the results</a>',
                f'<header><h1>{text(self.title)}</h1><p class="muted">{text(self.lead)}</p></header>',
                f'<div class="top"><div><nav aria-label="Sections"><ul>{links}</ul></nav>'
                '<button type="button" id="theme" aria-label="Switch between light and dark">Dark</button></div></div>',
                self.album.html(),
                f'<main id="main" tabindex="-1"><ul class="figures">{numbers}</ul>',
                "<noscript><p>Charts and filters need scripts, which are switched off here; the tables hold every "
                "number.</p></noscript>",
                *(section.html() for section in self.sections),
                "</main>",
                f"<footer>{text(MARK)} {text(__version__)}. This file needs no other and asks no network. Charts: "
                "plotly.js, © Plotly, Inc., MIT licence.</footer>",
                data_block("figures", figures),
                f"<script>{library}</script>",
                f"<script>{script}</script>",
                "</body>",
                "</html>\n",
            ]
        )

    def write(self, path: str | Path) -> Path:
        """Write the page to ``path``. Raises :class:`FileError` where it cannot be written."""
        write_text(path, self.html())
        return Path(path)


@cache
def asset(name: str) -> str:
    """A file of this package's ``assets``."""
    return read_text(Path(__file__).parent / "assets" / name)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
