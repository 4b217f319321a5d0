"""Every processor measured: a file each under machines/, of which the page and README quote the worst.

    python -m benchmarks.machines build/benchmarks.json [more.json]

keeps what one run (or its parts) said of this processor; an earlier file of the same processor is replaced.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import CEILINGS, Run, load, merged
from vlmadapt.files import write_json

FOLDER = Path(__file__).with_name("machines")
DIGITS = 3


@dataclass(frozen=True)
class Machine:
    """What is known of one processor: each race's time of ours and the rivals' ratios to it with their quartiles."""

    name: str
    facts: dict[str, Any]
    ours_ms: dict[str, float]
    ratios: dict[str, dict[str, tuple[float, float, float]]]

    def fastest(self, race: str, rivals: Sequence[str] | None = None) -> tuple[str, float] | None:
        """The rival that took least time in a race, ceilings apart unless they are named."""
        present = {
            rival: ratio[0]
            for rival, ratio in self.ratios.get(race, {}).items()
            if (rival in rivals if rivals is not None else rival not in CEILINGS)
        }
        return min(present.items(), key=lambda item: item[1], default=None)


def machine_of(run: Run) -> Machine:
    """A run as it is kept."""
    races = list(run.races())
    facts = run.machine | {"date": run.date}
    ratios = {g.name: {rival: _rounded(ratio) for rival, ratio in g.ratios().items()} for g in races}
    ours = {g.name: float(f"{1000 * g.entries[own].median:.4g}") for g in races if (own := g.ours())}
    return Machine(name_of(facts), facts, ours, ratios)


def _rounded(ratio: tuple[float, float, float]) -> tuple[float, float, float]:
    return round(ratio[0], DIGITS), round(ratio[1], DIGITS), round(ratio[2], DIGITS)


def name_of(facts: dict[str, Any]) -> str:
    """Processor, threads and instruction set: a processor with some of its instructions masked counts as another."""
    device = facts["cpu"] if facts["device"] == "cpu" else facts["device"]
    level = f"held to {facts['isa']}" if facts.get("masked") else facts["isa"]
    return f"{device}{facts.get('model', '')}, {facts['threads']} threads, {level}"


def file_of(name: str, folder: Path = FOLDER) -> Path:
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return folder / f"{'_'.join(words)}.json"


def kept(folder: Path = FOLDER) -> list[Machine]:
    """All machines measured, by name."""
    return sorted(map(_read, folder.glob("*.json")), key=lambda machine: machine.name)


def _read(path: Path) -> Machine:
    data = json.loads(path.read_text())
    ratios = {race: {rival: (r[0], r[1], r[2]) for rival, r in found.items()} for race, found in data["ratios"].items()}
    return Machine(data["name"], data["facts"], data["ours_ms"], ratios)


def keep(machine: Machine, folder: Path = FOLDER) -> Path:
    path = file_of(machine.name, folder)
    path.parent.mkdir(exist_ok=True)
    write_json(
        path, {"name": machine.name, "facts": machine.facts, "ours_ms": machine.ours_ms, "ratios": machine.ratios}
    )
    return path


def losses(machines: Sequence[Machine]) -> Iterator[tuple[str, list[tuple[str, float] | None]]]:
    """Races that some machine lost, each with its fastest rival on every machine (none: not measured there)."""
    for race in dict.fromkeys(race for machine in machines for race in machine.ratios):
        found = [machine.fastest(race) for machine in machines]
        if any(fastest is not None and fastest[1] < 1 for fastest in found):
            yield race, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="what pytest --benchmark-json wrote")
    print(f"{keep(machine_of(merged([load(path) for path in parser.parse_args().runs])))} written")


if __name__ == "__main__":
    main()
