"""docs/cli.md speaks of every command and shows what it prints; docs name no option that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from vlmadapt.cli import app

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")


def leaves(command, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, child in command.commands.items():
        yield from leaves(child, f"{name} {word}".strip())


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_in_the_table_and_has_an_example_of_its_output(name):
    table = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert any(re.search(rf"`{name}\b", cell) for cell in table)
    assert re.search(rf"^    \$ vlmadapt {name}\b.*\n    (?! *\$) *\S", PAGE, re.MULTILINE)


def test_examples_use_options_that_are_there():
    used = re.findall(r"^    (?:\$ )?vlmadapt ([^|\n]*)", PAGE, re.MULTILINE)
    assert len(used) > 12
    for line in used:
        name = next((name for name in COMMANDS if line.startswith(name)), None)
        if name is None:
            continue
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert set(re.findall(r"(--[a-z-]+)", line)) <= known, line
