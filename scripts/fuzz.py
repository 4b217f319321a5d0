"""``make fuzz``: random calls of every operator at every instruction set, damaged files and settings at every reader.

    python -m scripts.fuzz --minutes 10
    python -m scripts.fuzz --operators 100000 --files 100000 --minutes 100
    python -m scripts.fuzz --replay saved 12345

Every part runs in a process of its own; ``SHARES`` says for how much of the time. A number that fails is printed, with
the command that plays it again; ``--keep`` adds it to ``tests/fuzz/seeds.json``, which a test replays.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.fuzz.outcome import SECONDS, peak_mib
from tests.fuzz.parts import FILES, PARTS, SETTINGS, numbered, player

SEEDS = Path(__file__).parents[1] / "tests" / "fuzz" / "seeds.json"
# Beyond what a process holds after its first calls. Files have kilobytes, and what they say counts, not how much. Of
# operators it is the reference in float64 that needs memory, for all that it computes on the way.
MOST_MIB = {"operators": 1536.0, "files": 64.0, "settings": 64.0}
FIRST = 300  # calls, by which libraries have loaded what they load late
MOST_FAILURES = 20  # of a part, then it ends
SHARES = {"operators": 0.5, "files": 0.4, "settings": 0.1}  # of the time, where nothing is left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of all parts together")
    parser.add_argument("--operators", type=int, default=sys.maxsize, help="calls, after which the part ends")
    parser.add_argument("--files", type=int, default=sys.maxsize, help="damaged files, after which the part ends")
    parser.add_argument("--settings", type=int, default=sys.maxsize, help="settings, after which the part ends")
    parser.add_argument("--seed", type=int, default=int(time.time()) << 20, help="the first number")
    parser.add_argument("--only", choices=tuple(SHARES))
    parser.add_argument("--keep", action="store_true", help=f"add failing numbers to {SEEDS.name}")
    parser.add_argument("--replay", nargs=2, metavar=("PART", "NUMBER"))
    parser.add_argument("--play", nargs=5, help=argparse.SUPPRESS)  # of the processes: part, seed, count, seconds, log
    given = parser.parse_args()
    if given.replay:
        with tempfile.TemporaryDirectory() as place:
            part, number = given.replay[0], int(given.replay[1])
            print(player(part, Path(place))(numbered(part, number)))
        return
    if given.play:
        part, seed, count, seconds, log = given.play
        play(part, int(seed), int(count), float(seconds), Path(log))
        return
    print(f"from number {given.seed}")
    failed = False
    for part, level, count, share in plan(given):
        failed |= run(part, level, given.seed, count, given.minutes * 60 * share, given.keep)
    sys.exit(failed)


def plan(given: argparse.Namespace) -> list[tuple[str, str, int, float]]:
    """(part, instruction-set level, calls, share of the time) of each process."""
    from vlmadapt.ops import build_info

    levels = [str(level) for level in build_info()["isa_available"]]
    found = []
    for kind, parts, count in (
        ("operators", [("operators", level) for level in levels], given.operators),
        ("files", [(part, "") for part in FILES], given.files),
        ("settings", [(part, "") for part in SETTINGS], given.settings),
    ):
        if given.only in (None, kind):
            share = (1.0 if given.only else SHARES[kind]) / len(parts)
            found += [(*part, -(-count // len(parts)), share) for part in parts]
    return found


def run(part: str, level: str, seed: int, count: int, seconds: float, keep: bool) -> bool:
    """One process; whether anything failed in it."""
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
        if level:
            environment["VLMADAPT_ISA"] = level
        command = [sys.executable, "-m", "scripts.fuzz", "--play", part, str(seed), str(count), str(seconds), str(log)]
        name = f"{part} {level}".strip()
        try:
            code = subprocess.run(command, env=environment, timeout=seconds + 120 + 10 * SECONDS).returncode
        except subprocess.TimeoutExpired:
            code = -1
        found = json.loads(log.read_text()) if log.is_file() else {}
    failures = found.get("failures", [])
    if code != 0 and not failures:  # a crash in compiled code, or a hang there, which no signal interrupts
        failures = [found.get("number", seed)]
        print(f"{name}: the process ended with {code} at or soon after number {failures[0]}")
    for number in failures:
        print(f"  again: {f'VLMADAPT_ISA={level} ' if level else ''}python -m scripts.fuzz --replay {part} {number}")
    if keep and failures:
        kept = json.loads(SEEDS.read_text())
        kept[part] = sorted({*kept.get(part, []), *failures})
        SEEDS.write_text(json.dumps(kept, indent=2) + "\n")
    return bool(failures) or code != 0


def play(part: str, seed: int, count: int, seconds: float, log: Path) -> None:
    """Plays numbers from ``seed`` and writes to ``log`` where it is, then ends with 1 where anything failed."""
    import torch

    assert part in PARTS
    numbers, outcomes = 0, Counter[str]()
    failures: list[int] = []
    start, floor = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        one = player(part, Path(place))
        while numbers < count and time.monotonic() - start < seconds and len(failures) < MOST_FAILURES:
            number = seed + numbers
            if numbers % 50 == 0:
                log.write_text(json.dumps({"number": number, "failures": failures}))
                if part == "operators":  # calls so small are ten times as slow on two threads
                    torch.set_num_threads(2 if numbers // 50 % 40 == 39 else 1)
            try:
                outcomes[one(numbered(part, number))] += 1
            except Exception:  # whatever it is, it is what was looked for
                failures.append(number)
                print(f"{part} {number}:", *traceback.format_exc(limit=-2).splitlines()[-8:], sep="\n    ")
            numbers += 1
            if numbers == FIRST:
                floor = peak_mib()
    grown = peak_mib() - floor if floor else 0.0
    most = MOST_MIB[part if part in MOST_MIB else "settings" if part in SETTINGS else "files"]
    if grown > most:
        print(f"{part}: memory grew by {grown:.0f} MiB, more than {most:.0f}")
        failures.append(seed)
    said = dict(sorted(outcomes.items())) if part != "operators" else {"kinds of call": len(outcomes)}
    level = os.environ.get("VLMADAPT_ISA", "") if part == "operators" else ""
    print(
        f"{part} {level}: {numbers} in {time.monotonic() - start:.0f} s ({time.process_time():.0f} s of processor), "
        f"{len(failures)} failed, {said}, memory {peak_mib():.0f} MiB, grown by {grown:.0f}",
        flush=True,
    )
    log.write_text(json.dumps({"number": seed + numbers, "failures": failures}))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
