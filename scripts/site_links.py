"""Where the files of the repository lie in the documentation site, and links between them; knows no mkdocs.

``docs/`` is the site's root, README.md its first page. What else pages link to (cards of models, CHANGELOG.md, notices)
is copied below ``project/``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def place(name: str) -> str:
    """Path in the site of the file ``name`` of the repository."""
    if name == "README.md":
        return "index.md"
    return name.removeprefix("docs/") if name.startswith("docs/") else f"project/{name}"


def linked(name: str, text: str) -> Iterator[str]:
    """Files of the repository that the Markdown ``text`` of the file ``name`` links to."""
    for link in LINK.findall(text):
        target = _target(name, link)
        if (ROOT / target).is_file():
            yield target


def in_site(name: str, text: str) -> str:
    """``text`` of the file ``name`` with its links as they are in the site."""

    def moved(match: re.Match[str]) -> str:
        target = _target(name, match[1])
        if not (ROOT / target).is_file():
            return match[1]
        return posixpath.relpath(place(target), posixpath.dirname(place(name)))

    return LINK.sub(moved, text)


def outside() -> dict[str, str | None]:
    """Files outside of ``docs/`` that pages lead to, README.md first: their text, or None of what is no page."""
    found: dict[str, str | None] = {}
    pages = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    waiting = ["README.md", *pages]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        text = (ROOT / name).read_text(encoding="utf-8") if name.endswith(".md") else None
        if not name.startswith("docs/"):
            found[name] = text
        waiting += [target for target in linked(name, text or "") if not target.startswith("docs/")]
    return found


def _target(name: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
