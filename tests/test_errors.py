"""What is true of every message, whatever names it holds."""

from __future__ import annotations

import pytest

from vlmadapt.errors import FileError, IncompatibleLibrary, InputError, MissingDependency, VlmadaptError, shown

KINDS = [VlmadaptError, InputError, FileError, MissingDependency, IncompatibleLibrary]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_one_line_of_printable_text(kind: type[VlmadaptError]) -> None:
    error = kind("list.csv lists \x1b[31ma\nb\u202egnp.\udce9.png twice.")
    assert str(error) == r"list.csv lists \x1b[31ma\nb\u202egnp.\xe9.png twice."


def test_letters_of_any_script_stay() -> None:
    assert shown("Straße 猫 e\u0301.png") == "Straße 猫 e\u0301.png"
