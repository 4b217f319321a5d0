"""Pictures of a report: an album that keeps each once and small, and galleries of cards that can be filtered."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmadapt.pictures.thumbnails import SIDE, thumbnail_or_none
from vlmadapt.reporting.report.html import text

MOST_PICTURES = 200  # of a whole report
MOST_CARDS = 200


@dataclass
class Album:
    """Small pictures by their file, at most ``MOST_PICTURES``; none at all where ``pictures`` are not wanted."""

    pictures: bool = True
    _places: dict[Path, int | None] = field(default_factory=dict)
    _data: list[bytes] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether no other picture would be taken."""
        return self.pictures and len(self._data) >= MOST_PICTURES

    def show(self, path: Path, alt: str, kept: Callable[[], bytes | None] = lambda: None) -> str:
        """The picture ``path`` as HTML, of one that is gone what was ``kept``; a text where there is none of it."""
        if not self.pictures:
            return ""
        if path not in self._places:
            found = None if self.full else thumbnail_or_none(path) or kept()
            self._places[path] = None if found is None else len(self._data)
            self._data += [] if found is None else [found]
        place = self._places[path]
        name = alt if place is not None else f"{alt}: no picture"
        inner = '<text x="48" y="52" text-anchor="middle" font-size="13" fill="currentColor">no picture</text>'
        inner = inner if place is None else f'<use href="#picture-{place}"/>'
        return f'<svg class="thumb" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{text(name)}">{inner}</svg>'

    def html(self) -> str:
        """The pictures themselves, out of sight, where those shown find them."""
        if not self._data:
            return ""
        symbols = "".join(
            f'<symbol id="picture-{place}" viewBox="0 0 {SIDE} {SIDE}"><image width="{SIDE}" height="{SIDE}" '
            f'href="data:image/jpeg;base64,{base64.b64encode(data).decode()}"/></symbol>'
            for place, data in enumerate(self._data)
        )
        return f'<svg class="sprite" aria-hidden="true" focusable="false">{symbols}</svg>'


@dataclass(frozen=True)
class Facet:
    """A menu that cards are filtered by: its label, and what it offers."""

    label: str
    options: Sequence[str]


@dataclass(frozen=True)
class Card:
    """The HTML of a card, and for each facet the numbers of the options that it fits."""

    body: str
    fits: Sequence[Sequence[int]]


def facet_of(label: str, cards: Iterable[Sequence[str]]) -> tuple[Facet, list[list[int]]]:
    """A facet of the names that each card has, those of most cards first, and the options that each card fits."""
    each = [list(names) for names in cards]
    counts: dict[str, int] = {}
    for names in each:
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    options = sorted(counts, key=lambda name: (-counts[name], name))
    place = {name: number for number, name in enumerate(options)}
    shown = [f"{name} ({counts[name]})" for name in options]
    return Facet(label, shown), [[place[name] for name in names] for names in each]


def gallery_html(cards: Sequence[Card], facets: Sequence[Facet]) -> str:
    """``cards`` below menus and a search field that the page's script makes work."""
    menus = "".join(
        f'<label>{text(facet.label)}<select><option value="">any</option>'
        + "".join(f'<option value="{place}">{text(name)}</option>' for place, name in enumerate(facet.options))
        + "</select></label>"
        for facet in facets
    )
    items = "".join(
        f"<li data-facets='{json.dumps([list(fits) for fits in card.fits])}'>{card.body}</li>" for card in cards
    )
    return (
        f'<div class="gallery"><div class="controls">{menus}<label>Search<input type="search" '
        'placeholder="file or class"></label><button type="button" class="reset">Clear</button></div>'
        f'<p class="muted" role="status"></p><ul class="cards">{items}</ul>'
        '<button type="button" class="more" hidden>Show more</button></div>'
    )
