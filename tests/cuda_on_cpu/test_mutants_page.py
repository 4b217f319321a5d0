"""docs/cuda_mutants.md and survivors.json speak of mutants that exist, at lines where they are."""

from __future__ import annotations

import re

import pytest

from .harness.build import REPOSITORY
from .mutate import EXPLAINED, SUITES, mutants

PAGE = (REPOSITORY / "docs" / "cuda_mutants.md").read_text()
ROW = re.compile(r"^\| (?P<file>[\w.]+):(?P<line>\d+) \| (?P<rule>[\w ]+) \| `(?P<after>.*)` \| (?P<why>.+) \|$", re.M)


@pytest.mark.parametrize("operation", SUITES)
def test_survivors_of_the_page_exist(operation: str) -> None:
    section = re.split(r"^## ", PAGE.split(f"\n## {operation}\n")[1], flags=re.M)[0]
    said = {(m["file"], int(m["line"]), m["rule"], m["after"].replace("\\|", "|")) for m in ROW.finditer(section)}
    assert said, "the page lists no survivor"
    there = [(m.file.rsplit("/", 1)[1], m.line, m.rule, m.after) for m in mutants(operation)]
    assert not said.difference(there), "written before the kernels changed: run mutate, then mutate --page"
    assert f"\n{len(there)} exist, " in section


def test_reasons_are_of_mutants_that_exist() -> None:
    there = {(m.file.removeprefix("csrc/"), m.after) for operation in SUITES for m in mutants(operation)}
    assert not [r for r in EXPLAINED if (r["file"], r["mutant"]) not in there]
