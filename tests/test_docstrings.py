"""What docstrings must say (shapes, parameters, errors, source), and that the docs know every public name."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

import vlmadapt
from vlmadapt import errors
from vlmadapt.adapters import ADAPTERS, AdapterConfig
from vlmadapt.cli import app
from vlmadapt.generative.methods.registry import METHODS

PACKAGE = Path(vlmadapt.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "adapters",
    "backbones",
    "data",
    "generative",
    "generative.methods",
    "generative.models",
    "generative.tasks",
    "ops",
    "pictures",
    "training",
)
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)} | {"TrainingDiverged"}


def exported(room: str) -> dict[str, Any]:
    """The public names of a room; aliases and constants have no docstring of their own."""
    module = importlib.import_module(f"vlmadapt.{room}")
    return {name: getattr(module, name) for name in module.__all__}


def methods_of(cls: type) -> Iterator[tuple[str, Any]]:
    """The class's own public methods and properties, as functions."""
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            yield name, function


def class_text(cls: type) -> str:
    own = [base for base in cls.__mro__ if base.__module__.startswith("vlmadapt")]
    return "\n".join(base.__doc__ or "" for base in own)


PUBLIC = [(room, name, value) for room in ROOMS for name, value in exported(room).items()]
CLASSES = [pytest.param(v, id=f"{room}.{n}") for room, n, v in PUBLIC if inspect.isclass(v)]


@pytest.mark.parametrize("cls", CLASSES)
def test_public_classes_and_their_methods_have_docstrings(cls: type) -> None:
    if issubclass(cls, AdapterConfig):  # its documentation is the help of its fields
        assert all(entry.metadata.get("help") for entry in fields(cls))
    else:
        made_up = is_dataclass(cls) and (cls.__doc__ or "").startswith(f"{cls.__name__}(")
        assert cls.__doc__ and not made_up
    silent = [name for name, _ in methods_of(cls) if name != "__init__" and not inspect.getdoc(getattr(cls, name))]
    assert not silent


def texts_with_references(text: str) -> str:
    """With the docstrings of the functions that it refers to: a reference need not say everything again."""
    everything = {name: value for _, name, value in PUBLIC}
    names = re.findall(r":func:`~?(?:[\w.]*\.)?(\w+)`", text)
    return "\n".join([text, *((everything[n].__doc__ or "") for n in names if n in everything)])


def callables() -> Iterator[Any]:
    for room, name, value in PUBLIC:
        if not room.startswith(("ops", "adapters")):
            continue
        if inspect.isclass(value):
            for method, function in methods_of(value):
                text = "\n".join([inspect.getdoc(getattr(value, method)) or "", class_text(value)])
                yield pytest.param(function, text, id=f"{name}.{method}")
        elif inspect.isfunction(value):
            yield pytest.param(value, value.__doc__ or "", id=name)


@pytest.mark.parametrize(("function", "text"), [*callables()])
def test_operators_and_adapters_document_parameters_and_shapes(function: Any, text: str) -> None:
    said = texts_with_references(text)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [p.name for p in named if not re.search(rf"\b{p.name}\b", said)]
    assert not missing, f"its docstring does not name {missing}"
    if any("Tensor" in str(p.annotation) for p in named):
        assert re.search(r"\[[^\]]*\]", said), "its docstring gives no shape, such as [B, D]"


def raised(function: ast.FunctionDef) -> set[str]:
    """Our errors that the function itself raises, those of functions within it aside."""
    found, todo = set(), list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            found.add(node.exc.func.id)
        todo += ast.iter_child_nodes(node)
    return found & ERRORS


def functions_of(path: Path) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Public functions and methods of a file with their docstrings; what __init__ raises is the class's to say."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    special = method.name in ("__init__", "__post_init__", "__call__")
                    if special or not method.name.startswith("_"):
                        text = (ast.get_docstring(node) or "") if special else ""
                        yield f"{node.name}.{method.name}", method, text + (ast.get_docstring(method) or "")


ROOM_FILES = sorted(path for path in PACKAGE.rglob("*.py") if "cli" not in path.relative_to(PACKAGE).parts)


@pytest.mark.parametrize("path", ROOM_FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstrings_name_the_errors_raised(path: Path) -> None:
    found = ((name, raised(function) - set(re.findall(r"\w+", text))) for name, function, text in functions_of(path))
    assert not {name: sorted(missing) for name, missing in found if missing}


def sources() -> Iterator[Any]:
    """Where each method or operator must say what it was taken from: its file's head, or its own docstring."""
    several = {name: method.config for name, method in METHODS.items()}  # one file holds several
    yield from (pytest.param(config.__doc__, id=name) for name, config in several.items())
    operators = {name: value for name, value in exported("ops").items() if inspect.isfunction(value)}
    alone = {**ADAPTERS, **operators}
    del alone["build_info"], alone["use_reference"]
    for name, value in alone.items():
        yield pytest.param(inspect.getmodule(value).__doc__, id=name)


@pytest.mark.parametrize("text", [*sources()])
def test_methods_and_operators_name_their_source(text: str) -> None:
    assert re.search(r"arXiv \d{4}\.\d{4,5}|\b[Oo]urs\b", text)


DOCS = "\n".join(
    path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
)


@pytest.mark.parametrize("room", ROOMS)
def test_the_page_of_public_names_lists_those_that_exist(room: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    section = page.split(f"\n## vlmadapt.{room}\n")[1].split("\n## ")[0]
    listed = {
        name for cell in re.findall(r"^\| (`[^|]*`) \|", section, flags=re.M) for name in re.findall(r"\w+", cell)
    }
    # Each method's class and settings are found through ADAPTERS and docs/adapters.md.
    methods = {cls.__name__ for kind in ADAPTERS.values() for cls in (kind, kind.config_class)}
    assert listed == set(exported(room)) - methods


@pytest.mark.parametrize("name", [*ADAPTERS, *METHODS])
def test_docs_know_every_method(name: str) -> None:
    assert f"`{name}`" in DOCS


def options(command: Any) -> Iterator[tuple[str, str]]:
    for child in getattr(command, "commands", {}).values():
        yield from options(child)
    for parameter in command.params:
        long = [option for option in parameter.opts if option.startswith("--")]
        if long and long[0] != "--help":
            yield command.name, long[0]


def test_the_page_of_the_command_line_knows_every_option() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    known = set(re.findall(r"--[a-z][a-z0-9-]*", page))
    missing = {(name, option) for name, option in options(typer.main.get_command(app)) if option not in known}
    assert not sorted(missing)
