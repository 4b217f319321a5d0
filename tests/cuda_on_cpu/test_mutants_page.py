"""docs/cuda_mutants.md and survivors.json speak of mutants that exist, at lines where they are."""

from __future__ import annotations

import pytest

from .harness.build import REPOSITORY
from .mutate import EXPLAINED, SUITES, mutants, place_of, section_of, survivors_of

PAGE = (REPOSITORY / "docs" / "cuda_mutants.md").read_text()


@pytest.mark.parametrize("operation", SUITES)
def test_survivors_of_the_page_exist(operation: str) -> None:
    said = survivors_of(PAGE, operation)
    assert said, "the page lists no survivor"
    there = [place_of(m) for m in mutants(operation)]
    assert not said.difference(there), "written before the kernels changed: run mutate, then mutate --page"
    assert f"\n{len(there)} exist, " in section_of(PAGE, operation)


def test_reasons_are_of_mutants_that_exist() -> None:
    there = {(m.file.removeprefix("csrc/"), m.after) for operation in SUITES for m in mutants(operation)}
    assert not [r for r in EXPLAINED if (r["file"], r["mutant"]) not in there]
