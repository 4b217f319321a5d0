"""The generators of ``make fuzz``, driven and shrunk by hypothesis; and the numbers that once failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.parts import PARTS, Play, numbered, player
from vlmadapt import ops

SEEDS: dict[str, list[int]] = json.loads(Path(__file__).with_name("seeds.json").read_text())
# Together some 40 s of processor time.
EXAMPLES = {
    "operators": 1200,
    "table": 1500,
    "coop": 800,
    "folder": 500,
    "annotations": 700,
    "features": 800,
    "saved": 1500,
    "configuration": 1500,
    "method": 1500,
    "options": 1000,
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Play]:
    """Players by part, each made once."""
    known: dict[str, Play] = {}

    def of(part: str) -> Play:
        if part not in known:
            known[part] = player(part, tmp_path_factory.mktemp(part))
        return known[part]

    return of


@pytest.mark.parametrize("part", PARTS)
def test_what_is_drawn_is_right_or_refused_in_a_sentence(part: str, played: Callable[[str], Play]) -> None:
    """The same examples every time: others are for ``make fuzz``."""
    if part == "operators" and not ops.build_info()["cpu_library"]:
        pytest.skip("the kernels are not built")
    play = played(part)

    @settings(
        max_examples=EXAMPLES[part],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def draw(random: Random) -> None:
        play(random)

    draw()


@pytest.mark.parametrize(("part", "number"), [(part, number) for part in SEEDS for number in SEEDS[part]])
def test_what_once_failed(part: str, number: int, played: Callable[[str], Play]) -> None:
    """Numbers mean other inputs once a generator changes: what they found is in ``test_found.py`` besides."""
    played(part)(numbered(part, number))
