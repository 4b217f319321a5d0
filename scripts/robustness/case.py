"""What a case is, and the words that a run of it ends in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

RIGHT, CLEAR, CRASH, SILENT = "right", "clear error", "crash", "silent wrong"
ABSENT, NOT_RUN = "-", "not run"
WORST_FIRST = (SILENT, CRASH, CLEAR, RIGHT)

OURS = "vlmadapt"
PEERS = ("CLIP_benchmark", "scikit-learn", "peft", "Tip-Adapter", "ImageFolder")
COLUMNS = (OURS, *PEERS)


@dataclass(frozen=True)
class Verdict:
    """How one run of one input ended, and what was seen of it; ``code`` and ``last`` of a command or an exception."""

    outcome: str
    why: str
    code: int | None = None
    last: str = ""
    of: str = ""  # which of a case's inputs


Run = Callable[[Path], "Verdict | list[Verdict]"]


@dataclass
class Case:
    """One row. ``runs`` has a function a column: it makes the input in the folder it is given, runs, and judges."""

    section: str
    what: str
    right: str
    needs: str  # what a peer without a run lacks
    tests: tuple[str, ...]  # those of the package that hold it, as pytest names them
    runs: dict[str, Run] = field(default_factory=dict)

    def by(self, column: str) -> Callable[[Run], Run]:
        """Decorator: this function runs the case in ``column``."""
        if column not in COLUMNS or column in self.runs:
            raise ValueError(f"column {column!r} of {self.what!r} is unknown or taken: use {COLUMNS}")

        def keep(run: Run) -> Run:
            self.runs[column] = run
            return run

        return keep


CASES: list[Case] = []


def case(section: str, what: str, right: str, needs: str, *tests: str) -> Case:
    """A new row, in the order of the page; ``tests`` are paths below ``tests/`` with ``::`` and a name."""
    made = Case(section, what, right, needs, tests)
    CASES.append(made)
    return made


def worst(verdicts: list[Verdict]) -> str:
    """The outcome of a cell with several inputs."""
    return min((verdict.outcome for verdict in verdicts), key=WORST_FIRST.index)
