"""docs/architecture.svg: the rooms of the package and who imports whom, from the imports themselves.

python scripts/architecture.py [--check]
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "vlmadapt"
DRAWING = PACKAGE.parent / "docs" / "architecture.svg"

# Floors from the roof down, few-shot wing on the left, generative wing on the right.
FLOORS = (
    ("cli",),
    ("reporting",),
    ("sharing", "serving"),
    ("experiments", "generative"),
    ("classifier", "generative.tasks", "generative.methods"),
    ("adapters", "generative.data", "generative.models"),
    ("data", "backbones", "training"),
    ("pictures", "ops", "provenance"),
    ("ground",),
)
SUBROOMS = tuple(room for floor in FLOORS for room in floor if "." in room)
GROUND = (
    "atomic",
    "config",
    "checks",
    "weights",
    "doors",
    "files",
    "kinds",
    "locks",
    "modes",
    "options",
    "progress",
    "seals",
    "errors",
    "version",
)
WIDTH, HEIGHT, BOX, GAP = 960, 92, 168, 34
LEFT, RIGHT, COMMON = "#e8f0fb", "#f3ecf9", "#f4f4f1"


def room_of(module: str) -> str:
    """``generative.models.blip`` -> ``generative.models``; files of the package's own folder are the ground, most."""
    parts = module.split(".")
    if ".".join(parts[:2]) in SUBROOMS:
        return ".".join(parts[:2])
    return "ground" if parts[0] in GROUND else parts[0]


def imports(path: Path) -> set[str]:
    """Names of the package that any import of ``path`` asks for, functions and type checking included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("vlmadapt.") for name in names if name.startswith("vlmadapt.")}


def module_of(path: Path) -> str:
    """``generative.models.blip``; a package by its own name, the whole by an empty one."""
    dotted = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    return "" if dotted == "__init__" else dotted.removesuffix(".__init__")


def arrows() -> Counter[tuple[str, str]]:
    """How many modules of one room import from another."""
    modules = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    found: Counter[tuple[str, str]] = Counter()
    for module, path in modules.items():
        rooms = {room_of(name if name in modules else name.rpartition(".")[0] or name) for name in imports(path)}
        found.update((room_of(module), room) for room in rooms if room != room_of(module))
    return found


def draw() -> str:
    places: dict[str, tuple[float, float]] = {}
    for floor, rooms in enumerate(FLOORS):
        step = WIDTH / len(rooms)
        places |= {room: (step * (i + 0.5), 24 + HEIGHT * floor) for i, room in enumerate(rooms)}
    lines = []
    for (source, target), count in sorted(arrows().items()):
        # Everything stands on the ground: those arrows would hide the others.
        if source in places and target in places and target != "ground":
            (x, y), (u, v) = places[source], places[target]
            across = y == v
            start, end = (y + GAP, v - 4) if not across else (y + GAP / 2, v + GAP / 2)
            x, u = (x + BOX / 2, u - BOX / 2 - 4) if across and x < u else (x, u)
            x, u = (x - BOX / 2, u + BOX / 2 + 4) if across and x > u else (x, u)
            lines.append(
                f'<path class="arrow" d="M{x:.0f},{start:.0f} C{x:.0f},{start + 26:.0f} {u:.0f},{end - 26:.0f} '
                f'{u:.0f},{end:.0f}"><title>{source} imports {target}: {count} files</title></path>'
            )
    boxes = []
    for room, (x, y) in places.items():
        width = WIDTH - 40 if room == "ground" else BOX
        wing = LEFT if room in ("experiments", "classifier", "adapters") else COMMON
        wing = RIGHT if room.startswith("generative") else wing
        text = " · ".join(("ground:", *GROUND)) if room == "ground" else room
        boxes.append(
            f'<rect x="{x - width / 2:.0f}" y="{y:.0f}" width="{width}" height="{GAP}" rx="5" fill="{wing}"/>'
            f'<text x="{x:.0f}" y="{y + 22:.0f}">{text}</text>'
        )
    height = HEIGHT * len(FLOORS)
    style = (
        "rect{stroke:#777}text{font:14px sans-serif;text-anchor:middle;fill:#222}"
        ".arrow{fill:none;stroke:#8a8a8a;stroke-width:1.1;marker-end:url(#tip)}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
            f"<style>{style}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0,0L8,4L0,8z" fill="#8a8a8a"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height}" fill="#fff" style="stroke:none"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where the drawing is out of date")
    given = parser.parse_args()
    if given.check:
        sys.exit(DRAWING.read_text(encoding="utf-8") != draw())
    DRAWING.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
