"""Imports flow one way, and ``import vlmadapt`` stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vlmadapt

PACKAGE = Path(vlmadapt.__file__).parent

# What each room may import besides itself and the floor (errors, files, progress, version).
MAY_IMPORT: dict[str, set[str]] = {
    "pictures": set(),
    "ops": set(),
    "training": {"provenance"},
    "provenance": set(),
    "data": {"pictures"},
    "backbones": {"pictures"},
    "adapters": {"ops", "training", "pictures"},
    "classifier": {"adapters", "data", "backbones"},
    "experiments": {"classifier", "adapters", "data", "backbones", "training", "provenance"},
    "generative": {"data", "backbones", "training", "ops", "provenance", "pictures", "adapters"},
    "reporting": {"experiments", "classifier", "generative", "adapters", "data", "backbones", "provenance", "pictures"},
    "cli": {"reporting", "experiments", "classifier", "generative", "adapters", "data", "backbones", "ops", "training", "provenance", "doctor", "pictures"},
}
FLOOR = {"errors", "files", "progress", "config", "weights", "doors", "version"}
# nn.MultiheadAttention is spelt out once, for cached decoding and for adapters.
EXCEPTIONS: set[tuple[str, str]] = set()


def rooms_imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("vlmadapt.")}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_flow_one_way(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        name = path.relative_to(PACKAGE).as_posix()
        foreign = rooms_imported(path) - FLOOR - {room} - MAY_IMPORT[room]
        foreign = {other for other in foreign if (name, other) not in EXCEPTIONS}
        assert not foreign, f"{name} imports {sorted(foreign)}"


def test_import_loads_no_heavy_package() -> None:
    heavy = ["timm", "transformers", "open_clip", "sklearn", "matplotlib", "torchvision", "pandas"]
    imports = "import sys, vlmadapt.adapters, vlmadapt.backbones, vlmadapt.data"
    code = f"{imports}; print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_pictures_are_opened_and_converted_in_one_place() -> None:
    """``Image.open`` and ``.convert(...)`` would each be a second way from a picture to RGB."""
    found = set()
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "scripts").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                opens = ast.unparse(node.func) == "Image.open"
                if opens or node.func.attr in ("convert", "exif_transpose"):
                    found.add(path.relative_to(PACKAGE.parent).as_posix())
    assert found == {"vlmadapt/pictures/read.py"}
