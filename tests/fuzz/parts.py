"""What can be played: a part's number always makes the same input, in ``make fuzz`` and in the test of kept seeds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz import data_files, settings
from tests.fuzz.outcome import Attempt, attempted

FILES = (*data_files.KINDS, "saved")
SETTINGS = tuple(settings.KINDS)
PARTS = ("operators", *FILES, *SETTINGS)

Play = Callable[[Random], str]


def numbered(part: str, number: int) -> Random:
    """What makes the input ``number`` of ``part``: another one once the generators change."""
    return Random(f"{part} {number}")


def player(part: str, place: Path) -> Play:
    """Plays an input of ``part`` in the empty folder ``place`` and names the outcome; raises where it is wrong."""
    if part == "operators":
        from tests.fuzz.operators import call

        return call
    make: Callable[[Random, Path], Attempt]
    if part == "saved":
        from tests.fuzz.saved_files import SavedFiles

        make = SavedFiles(place / "whole").attempt
    else:
        make = {**data_files.KINDS, **settings.KINDS}[part]

    def play(random: Random) -> str:
        work = place / "work"
        work.mkdir(parents=True)
        try:
            return attempted(make(random, work))
        finally:
            shutil.rmtree(work)

    return play
