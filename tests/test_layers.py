"""The floor plan is the law: imports flow one way, in no circle, and ``import vlmadapt`` stays cheap."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from architecture import DRAWING, FLOORS, GROUND, draw, imports, module_of, room_of

import vlmadapt

PACKAGE = Path(vlmadapt.__file__).parent
MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Beside the floors: they look at everything, and nothing but cli looks at them.
BESIDE = {"doctor", "__main__", ""}
WINGS = ({"experiments", "classifier", "adapters"}, {room for room in FLOOR if room.startswith("generative")})


def needed(module: str) -> set[str]:
    """Modules that ``module`` imports anywhere, functions and type checking included."""
    names = {name if name in MODULES else name.rpartition(".")[0] for name in imports(MODULES[module])}
    return {name for name in names if name in MODULES and name != module}


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) not in BESIDE])
def test_imports_flow_one_way(module: str) -> None:
    room = room_of(module)
    assert room in FLOOR, f"{module} is in no room of scripts/architecture.py"
    others = {room_of(name) for name in needed(module)} - {room, ""}
    for other in others - {"doctor"} if room == "cli" else others:
        assert FLOOR.get(other, -1) > FLOOR[room], f"{module} imports from {other}, which is not below {room}"
        for wing in WINGS:
            assert room not in wing or other in wing or other not in set.union(*WINGS), f"{module} imports {other}"


def test_no_import_circles() -> None:
    """Of modules, by any import: one inside a function only hides a circle."""
    graph = {name: needed(name) - {""} for name in MODULES if name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_dependency_by_string() -> None:
    """A room that looks for a child or a module by the name a room above gives it depends on that room."""
    above = {"p_adapter", "ffn_adapter", "bottleneck"}
    for module, path in MODULES.items():
        room = room_of(module)
        if room not in FLOOR:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if room == "generative.models":
                assert text not in above, f"{module} knows {text!r}"
            if " " not in text and text.startswith("vlmadapt."):
                target = room_of(text.removeprefix("vlmadapt."))
                assert FLOOR.get(target, 99) >= FLOOR[room], f"{module} names {text!r}"


def test_nothing_but_the_law_says_who_may_import_whom() -> None:
    assert {room_of(name) for name in MODULES} - BESIDE == set(FLOOR)
    assert all((PACKAGE / f"{name}.py").is_file() for name in GROUND)


def test_the_drawing_is_current() -> None:
    """``python scripts/architecture.py`` makes it anew."""
    assert DRAWING.read_text(encoding="utf-8") == draw()


def test_import_loads_no_heavy_package() -> None:
    heavy = ["timm", "transformers", "open_clip", "sklearn", "matplotlib", "torchvision", "pandas"]
    imports = "import sys, vlmadapt.adapters, vlmadapt.backbones, vlmadapt.data"
    code = f"{imports}; print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
