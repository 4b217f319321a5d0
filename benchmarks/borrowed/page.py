"""The results so far as Markdown: what became of each phase, what was wrong, predictions beside measurements, times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby

from benchmarks.borrowed.predictions import PREDICTIONS
from benchmarks.borrowed.record import Log, Row

DRY = """
**A dry run.** There was no GPU: small shapes on the CPU, the CUDA kernels on their emulation. It shows that every phase
runs; no number here says anything of a GPU.
"""
WRONG_SHOWN = 40


def last_of(rows: list[Row], kind: str) -> Row:
    return next((row for row in reversed(rows) if row["kind"] == kind), {})


def facts(rows: list[Row]) -> Iterator[str]:
    device, library = last_of(rows, "device"), last_of(rows, "library")
    shown: Row = dict(device)
    shown |= {name: library[name] for name in ("cuda_library", "cuda_archs", "sources") if name in library}
    for name, value in shown.items():
        if name not in ("kind", "at", "dry"):
            yield f"| {name} | {value} |"


def phases(rows: list[Row]) -> Iterator[str]:
    yield "\n## Phases\n\n| phase | | seconds | right | wrong |\n|---|---|---|---|---|"
    for row in rows:
        if row["kind"] == "phase":
            checks = [r["good"] for r in rows if r["kind"] == "check" and r["phase"] == row["phase"]]
            state = f"{row['state']}: {row['reason']}" if row["reason"] else row["state"]
            right = sum(checks)
            yield f"| {row['number']} {row['phase']} | {state} | {row['seconds']} | {right} | {len(checks) - right} |"


def wrong(rows: list[Row]) -> Iterator[str]:
    found = [row for row in rows if row["kind"] == "check" and not row["good"]]
    if found:
        yield "\n## Wrong\n"
    for row in found[:WRONG_SHOWN]:
        yield f"- {row['phase']}: {row['name']}: {' '.join(row['detail'].split())[:300]}"
    if len(found) > WRONG_SHOWN:
        yield f"- and {len(found) - WRONG_SHOWN} more in results.jsonl"


def ceilings(rows: list[Row]) -> Iterator[str]:
    yield "\n## Ceilings and notes\n\n| | measured | |\n|---|---|---|"
    for row in rows:
        if row["kind"] == "ceiling":
            unit = "TB/s" if row["name"] in ("copy", "l2") else "TFLOP/s"
            yield f"| {row['name']} | {row['value']:.4g} | {unit} |"
        if row["kind"] == "note":
            yield f"| {row['name']} | {row['value']} | {row['unit']} |"


def predictions(rows: list[Row]) -> Iterator[str]:
    yield "\n## Predictions\n\n| what | predicted | measured | | expected to bind |\n|---|---|---|---|---|"
    dry = last_of(rows, "run").get("dry", False)
    for one in PREDICTIONS:
        value = None if dry else one.found(rows)
        shown = "" if value is None else f"{value:.4g} {one.unit}"
        yield f"| {one.about} | {one.band()} | {shown} | {one.verdict(value)} | {one.binds} |"


def race(row: Row) -> str:
    return f"{row['group']}\0{row['shape']}\0{row['dtype']}"


def times(rows: list[Row]) -> Iterator[str]:
    found = sorted((row for row in rows if row["kind"] in ("time", "left out")), key=race)
    for group, members in groupby(found, key=lambda row: row["group"]):
        yield f"\n## {group}\n\n| shape | type | | L2 | ms (quartiles) | against ours | of the roof | error | |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for _, same in groupby(list(members), key=race):
            rows_of_race = list(same)
            timed = [r for r in rows_of_race if "ms" in r and not r.get("refused")]
            own = {r["l2"]: r["ms"] for r in timed if r["rival"] == "ours"}
            for row in rows_of_race:
                yield time_line(row, own)


def time_line(row: Row, own: dict[str, float]) -> str:
    start = f"| {row['shape']} | {row['dtype']} | {row['rival']} | "
    if row["kind"] == "left out":
        return f"{start} | | | | | {' '.join(row['reason'].split())[:120]} |"
    if row.get("refused"):
        return f"{start}{row['l2']} | | | | | refused: {row['refused']} |"
    ratio = f"{row['ms'] / own[row['l2']]:.2f}" if row["l2"] in own else ""
    share = "" if row["share"] is None else f"{100 * row['share']:.0f} % of {row['roof']}"
    error = "" if row["error"] is None else f"{row['error']:.1e}"
    how = "" if row["how"] == "graph" else row["how"]
    spread = f"{row['ms']:.4g} ({row['low']:.4g} to {row['high']:.4g})"
    return f"{start}{row['l2']} | {spread} | {ratio} | {share} | {error} | {how} |"


def text(log: Log) -> str:
    rows = log.rows()
    dry = last_of(rows, "run").get("dry", False)
    lines = [
        "# A GPU, for some minutes",
        "",
        "Written by `python3 -m benchmarks.borrowed`; all of it is in `results.jsonl`.",
        "Shares are of ceilings that the same run measured; a row above 105 % of one is refused.",
    ]
    lines += [DRY] if dry else []
    lines += ["", "| | |", "|---|---|", *facts(rows), *phases(rows), *wrong(rows), *ceilings(rows)]
    lines += [*predictions(rows), *times(rows)]
    return "\n".join(lines) + "\n"


def write(log: Log) -> str:
    """Rewrites gpu.md and returns it; a reader never sees half of one."""
    page = text(log)
    fresh = log.folder / ".gpu.md"
    fresh.write_text(page, encoding="utf-8")
    os.replace(fresh, log.folder / "gpu.md")
    return page


def failed(log: Log) -> bool:
    """Whether something was wrong, or a phase did not come to its end by its own fault."""
    rows = log.rows()
    fell = any(row["kind"] == "phase" and str(row["state"]).startswith("failed") for row in rows)
    return fell or any(row["kind"] == "check" and not row["good"] for row in rows)
