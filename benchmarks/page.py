"""The benchmarks page from one run's JSON.

    python -m benchmarks.page build/benchmarks.json docs/benchmarks.md

More than one JSON is taken where a run was made in parts. Tables of every race, figures beside the page, targets met
and missed, and where we lose.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks import figures
from benchmarks.machines import Machine, kept, losses, machine_of
from benchmarks.results import CEILINGS, Group, Run, load, merged
from benchmarks.targets import TARGETS, outcomes
from vlmadapt.atomic import atomic_path

INTRO = """# Benchmarks

Written by `make bench` ({date}); {origin}. Compare within a row: a
ratio is the rival's median time over ours (above 1 we are faster), with the quartiles of the rounds in brackets.

| | |
|---|---|
| processor | {cpu}{model}, {threads} threads, instruction set used: {isa} |
| device | {device} |
| load at the start | {load} |
| arithmetic reaches, GFLOP/s | {gflops} |
| versions | {versions} |

*released* is the form in the method's published code, re-derived; *eager* the best form we know in plain PyTorch;
*compiled* is `torch.compile` of it. {note}
"""
CPU_NOTE = "No GPU was measured: the CUDA kernels have never run on one."
GPU_NOTE = "Times are those of CUDA events, with the L2 cache flushed before each round: short calls measure the host."


def milliseconds(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{ms:.3g} ms" if ms < 1000 else f"{seconds:.3g} s"


def mebibytes(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:.1f}"


def short(ratio: tuple[float, float, float]) -> str:
    value, low, high = ratio
    digits = 0 if value >= 20 else (1 if value >= 2 else 2)
    return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def race_table(groups: list[Group]) -> Iterator[str]:
    rivals = list(dict.fromkeys(r for g in groups for r in g.ratios()))
    yield "| shape | ours | " + " | ".join(r.replace("_", " ") for r in rivals) + " |"
    yield "|---|---|" + "---|" * len(rivals)
    for group in groups:
        ratios, own = group.ratios(), group.ours()
        assert own is not None
        cells = [short(ratios[r]) if r in ratios else "-" for r in rivals]
        yield f"| {group.shape or group.what} | {milliseconds(group.entries[own].median)} | " + " | ".join(cells) + " |"


def memory_table(groups: list[Group]) -> Iterator[str]:
    yield "| extra memory, MiB | " + " | ".join(g.what.removeprefix("memory, ") for g in groups) + " |"
    yield "|---|" + "---|" * len(groups)
    for rival in dict.fromkeys(r for g in groups for r in g.entries):
        cells = [mebibytes(g.entries[rival].extra["extra_mib"]) if rival in g.entries else "-" for g in groups]
        yield f"| {rival} | " + " | ".join(cells) + " |"


def error_lines(groups: list[Group]) -> Iterator[str]:
    """Largest relative error against float64, ours and eager's, over the shapes of a table."""
    for rival in ("ours", "eager"):
        entries = [g.entries[rival] for g in groups if rival in g.entries]
        if errors := [entry.extra["error"] for entry in entries if "error" in entry.extra]:
            yield f"Largest error against float64, as a share of the largest value: {rival} {max(errors):.1e}.\n"


def lost_here(run: Run) -> Iterator[str]:
    """Rivals faster than ours in the median, or in some quarter of the rounds."""
    yield "Faster than ours in the median, or (level) with quartiles that reach below 1:\n"
    yield "| race | rival | its time over ours | |"
    yield "|---|---|---|---|"
    for group in run.races():
        for rival, ratio in group.ratios().items():
            if ratio[1] < 1 and rival not in CEILINGS:
                verdict = "lost" if ratio[0] < 1 else "level"
                yield f"| {group.name.replace(' | ', ', ')} | {rival} | {short(ratio)} | {verdict} |"


def target_table(run: Run) -> Iterator[str]:
    yield "| target | where | against | measured | |"
    yield "|---|---|---|---|---|"
    for o in outcomes(machine_of(run)):
        verdict = "met" if o.met else f"**missed**: {o.target.at_least:g} was meant"
        yield f"| {o.target.text} | {words(o.group)} | {o.rival} | {o.ratio:.2f} | {verdict} |"


def words(race: str) -> str:
    return race.replace(" | ", ", ")


def every_processor(machines: Sequence[Machine]) -> Iterator[str]:
    """On which processors a target is met, and every race that one of them lost, side by side."""
    yield "\nFrom `benchmarks/machines`, a file each; the sections after this one are of the run named above.\n"
    yield "| | processor | measured | versions |"
    yield "|---|---|---|---|"
    for number, machine in enumerate(machines, 1):
        facts = machine.facts
        yield f"| {number} | {machine.name} | {facts['date']} | torch {facts['versions']['torch']} |"
    yield "\nShapes that met a target, and the worst of all:\n"
    heads = [str(number) for number in range(1, len(machines) + 1)]
    yield f"| target | {' | '.join(heads)} |"
    yield "|---|" + "---|" * len(machines)
    found = [outcomes(machine) for machine in machines]
    for target in TARGETS:
        cells = []
        for of_machine in found:
            own = [o for o in of_machine if o.target is target]
            met = sum(o.met for o in own)
            cells.append(f"{met} of {len(own)}, {min(o.ratio for o in own):.2f}" if own else "-")
        yield f"| {target.text} ({target.at_least:g}) | {' | '.join(cells)} |"
    yield "\nRaces that a processor lost, with the fastest rival and its time over ours:\n"
    yield f"| race | {' | '.join(heads)} |"
    yield "|---|" + "---|" * len(machines)
    for race, fastest in losses(machines):
        cells = [
            "-" if one is None else (f"{one[0]} {one[1]:.2f}" if one[1] >= 1 else f"**{one[0]} {one[1]:.2f}**")
            for one in fastest
        ]
        yield f"| {words(race)} | {' | '.join(cells)} |"


def operation_section(name: str, groups: list[Group], folder: Path) -> Iterator[str]:
    yield f"\n## {name}\n"
    order = list(dict.fromkeys(g.what for g in groups))
    groups = sorted(groups, key=lambda g: order.index(g.what))
    races = [g for g in groups if not g.is_curve() and not g.is_memory() and g.ours()]
    if races:
        picture = f"benchmarks_{slug(name)}.png"
        figures.speedups(races, name, folder / picture)
        yield f"![speed-ups of {name}]({picture})\n"
    for what, same in groupby(races, lambda g: g.what):
        table = list(same)
        yield f"### {what}\n"
        yield from race_table(table)
        yield ""
        yield from error_lines(table)
    if memory := [g for g in groups if g.is_memory()]:
        yield "\n### memory\n"
        yield from memory_table(memory)
    for group in groups:
        if group.is_curve():
            picture = f"benchmarks_{slug(name)}_{slug(group.what)}.png"
            figures.curves(group, folder / picture)
            yield f"\n### {group.what}\n\n![{group.what}]({picture})"
    for group in groups:
        if not (group.is_curve() or group.is_memory() or group.ours()):
            yield f"\n### {group.what}\n"
            for rival, entry in group.entries.items():
                facts = {k: v for k, v in entry.extra.items() if k != "rival"}
                yield f"- {rival}: " + (", ".join(f"{k} {v}" for k, v in facts.items()) or milliseconds(entry.median))


def slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")


def page(run: Run, folder: Path, parts: int = 1, machines: Sequence[Machine] = ()) -> str:
    """The Markdown; figures are written into ``folder``."""
    facts = run.machine
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    note = CPU_NOTE if facts["device"] == "cpu" else GPU_NOTE
    fields = {k: facts[k] for k in ("cpu", "threads", "isa", "device", "load")}
    fields["model"] = facts.get("model", "")
    fields["gflops"] = ", ".join(f"{dtype} {rate:g}" for dtype, rate in facts.get("gflops", {}).items()) or "-"
    origin = "every number on this page comes from that one run"
    if parts > 1:
        origin = f"made in {parts} parts on the same machine and day, each row in one"
    lines = [INTRO.format(date=run.date, versions=versions, note=note, origin=origin, **fields)]
    if machines:
        lines += ["## Every processor measured", *every_processor(machines)]
    lines += ["\n## Targets\n", *target_table(run), "\n## Where we lose\n", *lost_here(run)]
    names = list(dict.fromkeys(g.operation for g in run.groups))
    for name in names:
        lines += operation_section(name, [g for g in run.groups if g.operation == name], folder)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="what pytest --benchmark-json wrote")
    parser.add_argument("page", type=Path, help="the Markdown file; figures go beside it")
    options = parser.parse_args()
    run = merged([load(path) for path in options.runs])
    text = page(run, options.page.parent, parts=len(options.runs), machines=kept())
    with atomic_path(options.page) as path:
        path.write_text(text)
    print(f"{options.page} written")


if __name__ == "__main__":
    main()
