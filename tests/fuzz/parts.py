"""What can be played: a part's number always makes the same input, in ``make fuzz`` and in the test of kept seeds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz import data_files
from tests.fuzz.outcome import Attempt, attempted

FILES = (*data_files.KINDS, "saved")
PARTS = ("operators", *FILES)


def player(part: str, place: Path) -> Callable[[int], str]:
    """Plays a number of ``part`` in the empty folder ``place`` and names the outcome; raises where something is wrong.

    The same number means another input once the generators change.
    """
    if part == "operators":
        from tests.fuzz.operators import call

        return lambda number: call(Random(f"{part} {number}"))
    make: Callable[[Random, Path], Attempt]
    if part == "saved":
        from tests.fuzz.saved_files import SavedFiles

        make = SavedFiles(place / "whole").attempt
    else:
        make = data_files.KINDS[part]

    def play(number: int) -> str:
        work = place / "work"
        work.mkdir(parents=True)
        try:
            return attempted(make(Random(f"{part} {number}"), work))
        finally:
            shutil.rmtree(work)

    return play
